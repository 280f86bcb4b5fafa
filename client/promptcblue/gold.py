"""The right answers, and a model's answers to the same samples."""

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from client.errors import InputError
from client.post_generate_process import Answer, results
from client.promptcblue.leniency import RELATIONS
from client.promptcblue.metrics import EXTRACTION, METRICS, REPORT, Metric
from client.rows import Row, read_bytes, read_checked_rows

Answers = Mapping[str, Mapping[str, Answer]]  # by task, by sample_id, in the file's order
SHAPES: dict[Metric, tuple[type, type, str]] = {  # what a metric compares, where that is no text
    EXTRACTION: (list, dict, "a list of objects"),
    REPORT: (dict, str, "an object of strings"),
}
NAMES_SHOWN = 5


@dataclass(frozen=True)
class Gold:
    """The right answers, and by sample_id the texts that state them; a structured file has none."""

    path: Path
    answers: Answers
    targets: Mapping[str, str]

    @property
    def texts(self) -> Mapping[str, str]:
        """The targets, or JSON in their place, by sample_id."""
        answers = chain.from_iterable(each.items() for each in self.answers.values())
        return self.targets or {name: _as_text(answer) for name, answer in answers}


@dataclass(frozen=True)
class Predictions:
    """The rows of the gold's samples as a model answered them, by task, in the gold's order."""

    path: Path
    rows: Mapping[str, list[Row]]

    @property
    def targets(self) -> dict[str, str]:
        """By sample_id."""
        rows = chain.from_iterable(self.rows.values())
        return {row["sample_id"]: row["target"] for row in rows}


def read_files(gold: Path, predictions: Iterable[Path]) -> tuple[Gold, list[Predictions]]:
    """Each file once. Raises InputError where one does not fit."""
    right = read_gold(gold)
    return right, [read_predictions(path, right) for path in predictions]


def read_gold(path: Path) -> Gold:
    """Of a file of JSON lines with targets, or of the structured file of the same answers.

    Targets are read by the converter `head`, which made the benchmark's structured files. Raises
    InputError.
    """
    content = _structured_file(path)
    gold = _of_rows(path) if content is None else Gold(path, _by_sample(content), {})
    for task, answers in gold.answers.items():
        if METRICS[task].is_label:
            _refuse_empty(answers, task, path)
    return gold


def _as_text(answer: Answer) -> str:
    return answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False, indent=1)


def _of_rows(path: Path) -> Gold:
    rows = read_checked_rows(path)
    answers = _by_sample(results(rows, "head"))
    if not any(any(each.values()) for each in answers.values()):
        raise InputError(f"{path}: every target is empty; a test set has no gold answers")
    return Gold(path, answers, {row["sample_id"]: row["target"] for row in rows})


def _by_sample(content: Mapping[str, list[dict[str, Any]]]) -> Answers:
    """Of each task that has any."""
    return {
        task: {one["sample_id"]: one["answer"] for one in answers}
        for task, answers in content.items()
        if answers
    }


def _refuse_empty(labels: Mapping[str, Answer], task: str, path: Path) -> None:
    for name, label in labels.items():
        if not label:
            raise InputError(f'{path}: sample_id "{name}" of {task} has an empty gold label')


def _structured_file(path: Path) -> dict[str, list[dict[str, Any]]] | None:
    """None where the file is no single object of lists, by task."""
    try:
        content = json.loads(read_bytes(path))
        json.dumps(content, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise InputError(f"{path}: half of a surrogate pair (\\ud8xx) is no character") from None
    except (ValueError, RecursionError):
        return None
    if not isinstance(content, dict) or "sample_id" in content:
        return None
    seen: set[str] = set()
    for task, answers in content.items():
        _check_answers(answers, task, f'{path}: task "{task}"', seen)
    return content


def _check_answers(answers: Any, task: str, where: str, seen: set[str]) -> None:
    if task not in METRICS:
        raise InputError(f"{where} is unknown; known are {', '.join(METRICS)}")
    if not isinstance(answers, list):
        raise InputError(f"{where}: expected a list of answers")
    for number, one in enumerate(answers, start=1):
        _check_answer(one, task, f"{where}, answer {number}", seen)


def _check_answer(one: Any, task: str, where: str, seen: set[str]) -> None:
    name = one.get("sample_id") if isinstance(one, dict) else None
    if not isinstance(name, str):
        raise InputError(f'{where}: the field "sample_id" is missing or not a string')
    if name in seen:
        raise InputError(f'{where}: sample_id "{name}" is used twice')
    seen.add(name)
    whole, part, expected = SHAPES.get(METRICS[task], (str, str, "a string"))
    if not _fits(one.get("answer"), whole, part):
        raise InputError(f'{where}: sample_id "{name}": the field "answer" is not {expected}')


def _fits(answer: Any, whole: type, part: type) -> bool:
    parts = answer.values() if isinstance(answer, dict) else answer
    return isinstance(answer, whole) and all(isinstance(each, part) for each in parts)


def read_predictions(path: Path, gold: Gold) -> Predictions:
    """The rows of the gold's samples. Raises InputError unless all are there, and no others."""
    rows = {row["sample_id"]: row for row in read_checked_rows(path)}
    tasks = {name: task for task, answers in gold.answers.items() for name in answers}
    _refuse_missing(tasks.keys() - rows.keys(), path)
    _refuse_missing(rows.keys() - tasks.keys(), gold.path)
    for name, task in tasks.items():
        other = rows[name]["task_dataset"]
        if not _same_task(other, task):
            raise InputError(
                f'{path}: sample_id "{name}": the field "task_dataset" is "{other}", '
                f'in {gold.path} it is "{task}"'
            )
    by_task = {task: [rows[name] for name in answers] for task, answers in gold.answers.items()}
    return Predictions(path, by_task)


def _same_task(one: str, other: str) -> bool:
    return one == other or {one, other} <= {*RELATIONS}


def _refuse_missing(names: Collection[str], where: Path) -> None:
    if names:
        more = " …" if len(names) > NAMES_SHOWN else ""
        raise InputError(
            f"{where} lacks {len(names)} rows of the other file: "
            f"{', '.join(sorted(names)[:NAMES_SHOWN])}{more}. Give predictions for these gold rows"
        )
