"""From a model's texts to PromptCBLUE's structured answers, with the standard library alone.

    python post_generate_process.py test_predictions.json results.json [--converter head|v16]

This one file goes into a submission, too: it imports nothing beside it. The two converters are
those that the benchmark has had: `v16` first makes `: , ;` full-width (100 of each).
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

Answer = Any  # str, list of dict, or dict: by task
CONVERTERS = ("head", "v16")
WIDENED = {":": "：", ",": "，", ";": "；"}
MOST_WIDENED = 100
NO_MARK = {"head": "不标注", "v16": "无实际意义的不标注或者和病人当前的状态独立不标注"}
UNKNOWN_SYMPTOM = "无法根据上下文确定病人是否患有该症状"
STS_LABELS = {"相同": "是的", "不同": "不是"}
EVENT_TEXTS, EVENT_LISTS = ("主体词", "发生状态"), ("描述词", "解剖部位")
REPORT_SECTIONS = ("主诉", "现病史", "辅助检查", "既往史", "诊断", "建议")
BOM = b"\xef\xbb\xbf"
FIELDS = ("sample_id", "input", "target", "task_type", "task_dataset", "answer_choices")


class RowError(ValueError):
    """A row that has no structured answer; the message names file, line, sample_id and field."""


def structured(row: dict[str, Any], converter: str = "head") -> Answer:
    """The answer that `row["target"]` states, as the official converter of that name reads it.

    `row` has all of FIELDS (`check_row`). What the text does not state as the task's prompt asks
    is left out, without an error.
    """
    text = row["target"]
    if converter == "v16":
        for narrow, wide in WIDENED.items():
            text = text.replace(narrow, wide, MOST_WIDENED)
    return PARSERS[row["task_dataset"]](text, row["answer_choices"], converter)


def _label(text: str, _choices: object, _converter: str) -> str:
    return text.strip()


def _same_or_not(text: str, _choices: object, _converter: str) -> str:
    return STS_LABELS.get(text.strip(), text.strip())


def _entities(text: str, choices: list[str], _converter: str) -> list[dict[str, str]]:
    """`疾病实体：感冒，发热`, type by type in the order of the choices."""
    return [
        {"entity": mention, "type": kind}
        for kind in choices
        for line in text.split("\n")
        if line.startswith(f"{kind}实体")
        for mention in _items(line.replace(f"{kind}实体：", ""))
    ]


def _triples(text: str, _choices: list[str], _converter: str) -> list[dict[str, str]]:
    """`具有R关系的头尾实体对如下：头实体为X，尾实体为Y。…`, one relation a line."""
    found = []
    for line in text.split("\n"):
        predicate = line.split("关系的头尾实体对")[0][2:].strip()  # without 具有
        for pair in line.replace(f"具有{predicate}关系的头尾实体对如下：", "").split("。"):
            head, *tails = pair.split("，尾实体为")
            if tails:
                subject = head.replace("头实体为", "").strip()
                item = tails[0].replace("尾实体为", "").strip()
                found.append({"predicate": predicate, "subject": subject, "object": item})
    return found


def _normalized(text: str, choices: list[str] | str, _converter: str) -> list[dict[str, str]]:
    """The last line's terms that are choices; each once, in the order of the text."""
    terms = [term for term in _items(text.split("\n")[-1]) if term in choices]
    return [{"entity": term, "type": "normalization"} for term in dict.fromkeys(terms)]


def _events(text: str, _choices: object, _converter: str) -> list[dict[str, str | list[str]]]:
    """`主体词：…；发生状态：…；描述词：a，b；解剖部位：…`, one event a line after the first."""
    return [_event(line) for line in text.split("\n")[1:]]


def _event(line: str) -> dict[str, str | list[str]]:
    stated: dict[str, str] = {}
    for part in line.split("；"):
        key, colon, _ = part.partition("：")
        if colon:
            stated[key] = part.replace(f"{key}：", "").strip()
    texts = {key: stated.get(key, "") for key in EVENT_TEXTS}
    return texts | {key: _items(stated.get(key, "")) for key in EVENT_LISTS}


def _marks(fallback: Callable[[str], str]) -> Callable[..., list[dict[str, str]]]:
    """`entity：label` after the first line; a label that is no choice becomes the fallback."""

    def parse(text: str, choices: list[str], converter: str) -> list[dict[str, str]]:
        pairs = [line.split("：") for line in text.split("\n")[1:] if line.count("：") == 1]
        return [
            {"entity": entity.strip(), "attr": mark if mark in choices else fallback(converter)}
            for entity, mark in pairs
        ]

    return parse


def _report(text: str, _choices: object, _converter: str) -> dict[str, str]:
    """`section：text` after the first line; where a section comes twice, the last counts."""
    lines = text.strip().split("\n")[1:]
    return {
        section: line.strip().split(f"{section}：")[-1].strip()
        for section in REPORT_SECTIONS
        for line in lines
        if line.startswith(f"{section}：")
    }


def _items(text: str) -> list[str]:
    return [item.strip() for item in text.split("，") if item.strip()]


PARSERS: dict[str, Callable[[str, Any, str], Answer]] = {
    "CMeEE-V2": _entities,
    "CMeIE": _triples,
    "CMeIE-V2": _triples,
    "CHIP-CDN": _normalized,
    "CHIP-CDEE": _events,
    "CHIP-STS": _same_or_not,
    "CHIP-CTC": _label,
    "CHIP-MDCFNPC": _marks(NO_MARK.__getitem__),
    "KUAKE-IR": _label,
    "KUAKE-QIC": _label,
    "KUAKE-QQR": _label,
    "KUAKE-QTR": _label,
    "MedDG": _label,
    "IMCS-V2-MRG": _report,
    "IMCS-V2-NER": _entities,
    "IMCS-V2-DAC": _label,
    "IMCS-V2-SR": _marks(lambda _: UNKNOWN_SYMPTOM),
}
# These read their choices, so a row without is wrong; CHIP-CDN's may be one string
CHOICES: dict[str, tuple[type, ...]] = {
    "CHIP-CDN": (list, str),
    **dict.fromkeys(("CMeEE-V2", "CMeIE", "CMeIE-V2", "IMCS-V2-NER"), (list,)),
    **dict.fromkeys(("CHIP-MDCFNPC", "IMCS-V2-SR"), (list,)),
}


def read_rows(path: Path, *, loose: bool = False) -> Iterator[dict[str, Any]]:
    """The rows of a file of JSON lines, each checked. Raises RowError.

    `loose` passes over a byte order mark and blank lines, which the benchmark does not take.
    """
    try:
        content = path.read_bytes()
    except OSError as problem:
        raise RowError(f"cannot read {path}: {problem.strerror}") from problem
    if loose:
        content = content.removeprefix(BOM)
    seen: dict[str, int] = {}
    # only \n ends a line: others, such as U+2028, may stand inside a text
    for number, line in enumerate(content.removesuffix(b"\n").split(b"\n"), start=1):
        if loose and not line.strip():
            continue
        row = _parsed(line, f"{path}:{number}")
        check_row(row, f"{path}:{number}")
        first = seen.setdefault(row["sample_id"], number)
        if first != number:
            raise RowError(
                f'{path}:{number}: sample_id "{row["sample_id"]}": the field "sample_id" is '
                f"the same as in line {first}"
            )
        yield row


def _parsed(line: bytes, where: str) -> Any:
    if line.startswith(BOM):
        raise RowError(f"{where}: starts with a byte order mark; save the file as UTF-8 without")
    if not line.strip():
        raise RowError(f"{where}: a blank line; every line has to hold one JSON object")
    try:
        row = json.loads(line.decode("utf-8"))
        json.dumps(row, ensure_ascii=False).encode("utf-8")
    except UnicodeDecodeError as problem:
        raise RowError(f"{where}: not UTF-8 (byte {problem.start})") from None
    except UnicodeEncodeError:
        raise RowError(f"{where}: half of a surrogate pair (\\ud8xx) is no character") from None
    except (ValueError, RecursionError) as problem:
        raise RowError(f"{where}: broken JSON: {problem}") from None
    return row


def check_row(row: Any, where: str) -> None:
    """Raise RowError unless `row` has what `structured` and the benchmark's rules need."""
    if not isinstance(row, dict):
        raise RowError(f"{where}: expected a JSON object, found {type(row).__name__}")
    where = f"{where}: sample_id {json.dumps(row.get('sample_id'), ensure_ascii=False)}"
    for field in FIELDS:
        if field not in row:
            raise RowError(f'{where}: the field "{field}" is missing')
        if field != "answer_choices" and not isinstance(row[field], str):
            raise RowError(f'{where}: the field "{field}" is {_kind(row[field])}, not a string')
    _check_task(row["task_dataset"], row["answer_choices"], where)


def _check_task(task: str, choices: Any, where: str) -> None:
    if task not in PARSERS:
        raise RowError(
            f'{where}: the field "task_dataset" names an unknown task, "{task}"; '
            f"known are {', '.join(PARSERS)}"
        )
    listed = isinstance(choices, CHOICES.get(task, object))
    if task in CHOICES and not (listed and all(isinstance(each, str) for each in choices)):
        raise RowError(f'{where}: the field "answer_choices" is {_kind(choices)}, not a list')


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a string", type(None): "null"}
    return names.get(type(value), json.dumps(value))


def results(rows: Iterable[dict[str, Any]], converter: str) -> dict[str, list[dict[str, Answer]]]:
    """What the benchmark calls results.json: each task's answers in the order of the rows."""
    found: dict[str, list[dict[str, Answer]]] = {}
    for row in rows:
        answer = {"sample_id": row["sample_id"], "answer": structured(row, converter)}
        found.setdefault(row["task_dataset"], []).append(answer)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Convert one file; 2 and no output when a row is wrong."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("predictions", type=Path, help="JSON lines with a model's targets")
    parser.add_argument("results", type=Path, help="the JSON file to write")
    parser.add_argument("--converter", choices=CONVERTERS, default="head")
    options = parser.parse_args(arguments)
    try:
        if options.results.resolve() == options.predictions.resolve():
            raise RowError(f"{options.results} holds the predictions: name another file")
        found = results(read_rows(options.predictions), options.converter)
        text = json.dumps(found, ensure_ascii=False, indent=2) + "\n"
        options.results.write_text(text, encoding="utf-8")
    except (RowError, OSError) as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 2
    for task, answers in found.items():
        print(task, len(answers))
    return 0


if __name__ == "__main__":
    try:
        try:
            sys.exit(main())
        finally:  # what argparse printed, too, and not in the interpreter's end
            print(end="", flush=True)
            print(end="", file=sys.stderr, flush=True)
    except BrokenPipeError:  # the reader has gone, as `head` does: end quietly, as by SIGPIPE
        os._exit(141)
