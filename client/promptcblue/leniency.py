"""What an answer's format cost: the official reading of a text against a lenient one.

The lenient reading mends a text step by step. A step that changes the answer is a cause. It is
never mixed into the official score.
"""

import re
from collections.abc import Callable

from client.post_generate_process import (
    EVENT_LISTS,
    EVENT_TEXTS,
    REPORT_SECTIONS,
    WIDENED,
    Answer,
    structured,
)
from client.promptcblue.metrics import METRICS
from client.rows import Row

OTHER = "非上述类型"  # a gold label of several tasks, though not among their choices
RELATIONS = ("CMeIE", "CMeIE-V2")  # one task, under both of its names
_END_OF_PAIR = re.compile(r"\.(?=头实体为|$)", re.MULTILINE)
FREE_TEXTS = ("MedDG", "IMCS-V2-MRG")
_SECTION = re.compile(f"^({'|'.join(REPORT_SECTIONS)}):", re.MULTILINE)
MARKS = ("CHIP-MDCFNPC", "IMCS-V2-SR")
NONE = "没有"  # gold texts say so where a list is empty
# what a text has that says something in its task's form
SIGNS = {
    "CMeEE-V2": ("实体：",),
    "IMCS-V2-NER": ("实体：",),
    "CMeIE": ("关系的头尾实体对",),
    "CMeIE-V2": ("关系的头尾实体对",),
    "CHIP-CDEE": tuple(f"{key}：" for key in (*EVENT_TEXTS, *EVENT_LISTS)),
    "CHIP-MDCFNPC": ("：",),
    "IMCS-V2-SR": ("：",),
    "IMCS-V2-MRG": tuple(f"{section}：" for section in REPORT_SECTIONS),
}


def lenient(row: Row, converter: str) -> tuple[Answer, list[str]]:
    """The answer that `row["target"]` means, and the causes why the official reading has another.

    The causes "empty", "unknown label" and "nothing understood" stay: no reading mends them.
    """
    answer = structured(row, converter)
    if not row["target"].strip():
        return answer, ["empty"]
    causes = []
    for cause, mend in MENDINGS.items():
        text, before = mend(row), answer
        if text == row["target"]:
            continue
        row = row | {"target": text}
        answer = structured(row, converter)
        if answer != before:
            causes.append(cause)
    return answer, causes + _beyond_mending(row, answer)


def _beyond_mending(row: Row, answer: Answer) -> list[str]:
    if _is_unknown(row, answer):
        return ["unknown label"]
    if not answer and _says_nothing(row):
        return ["nothing understood"]
    return []


def _without_white_space(row: Row) -> str:
    """Around the text and its lines, and blank lines."""
    lines = (line.strip() for line in row["target"].split("\n"))
    return "\n".join(line for line in lines if line)


def _wide(row: Row) -> str:
    """Everywhere in answers of a fixed form; free texts keep their punctuation."""
    text: str = row["target"]
    if row["task_dataset"] in FREE_TEXTS:
        return _SECTION.sub(r"\1：", text)
    for narrow, wide in WIDENED.items():
        text = text.replace(narrow, wide)
    return _END_OF_PAIR.sub("。", text) if row["task_dataset"] in RELATIONS else text


def _with_lead_in(row: Row) -> str:
    """A line before an answer that begins in the first: the official reading skips that one."""
    text: str = row["target"]
    task, first = row["task_dataset"], text.split("\n")[0]
    if task in MARKS:
        begins = first.count("：") == 1 and not first.endswith("：")
    else:
        begins = task in ("CHIP-CDEE", "IMCS-V2-MRG") and first.startswith(SIGNS[task])
    return f"如下：\n{text}" if begins else text


def _one_line(row: Row) -> str:
    """Terms on several lines or with other commas, where the official reading takes the last."""
    text: str = row["target"]
    return (
        text.replace("\n", "，").replace("、", "，") if row["task_dataset"] == "CHIP-CDN" else text
    )


def _only_the_label(row: Row) -> str:
    """The one choice that the text holds, without what is around it."""
    text: str = row["target"]
    held = [choice for choice in _choices(row) if choice in text]
    longest = max(held, key=len, default=text)
    return longest if all(choice in longest for choice in held) else text


MENDINGS: dict[str, Callable[[Row], str]] = {
    "white space": _without_white_space,
    "half-width punctuation": _wide,
    "no line before the answer": _with_lead_in,
    "terms on several lines": _one_line,
    "words around the label": _only_the_label,
}


def _choices(row: Row) -> list[str]:
    """Of a task of labels. Nothing checks them, since the official reading does without."""
    choices = row["answer_choices"]
    if not choices or not METRICS[row["task_dataset"]].is_label:
        return []
    listed = isinstance(choices, list) and all(isinstance(each, str) for each in choices)
    return [*choices, OTHER] if listed else []


def _is_unknown(row: Row, answer: Answer) -> bool:
    """Neither the text nor what it stands for is a choice; a task without choices takes all."""
    choices = _choices(row)
    return bool(choices) and {row["target"], answer}.isdisjoint(choices)


def _says_nothing(row: Row) -> bool:
    signs = (NONE, *SIGNS.get(row["task_dataset"], ()))
    return not any(sign in row["target"] for sign in signs)
