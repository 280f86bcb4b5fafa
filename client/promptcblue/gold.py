"""The right answers, and a model's answers to the same samples."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from client.errors import InputError
from client.post_generate_process import Answer, RowError, read_rows, results
from client.promptcblue.leniency import RELATIONS
from client.promptcblue.metrics import EXTRACTION, METRICS, REPORT
from client.rows import Row

Gold = dict[str, dict[str, Answer]]  # by task, by sample_id, in the file's order
NAMES_SHOWN = 5


def read_gold(path: Path) -> Gold:
    """Of a file of JSON lines with targets, or of the structured file of the same answers.

    Targets are read by the converter `head`, which made the benchmark's structured files. Raises
    InputError.
    """
    content = _structured_file(path)
    if content is None:
        try:
            content = results(read_rows(path), "head")
        except RowError as problem:
            raise InputError(str(problem)) from problem
        if not any(one["answer"] for answers in content.values() for one in answers):
            raise InputError(f"{path}: every target is empty; a test set has no gold answers")
    gold = {
        task: {one["sample_id"]: one["answer"] for one in answers}
        for task, answers in content.items()
        if answers
    }
    _refuse_empty_labels(gold, path)
    return gold


def read_targets(path: Path) -> dict[str, str]:
    """Of a gold file that read_gold has read, by sample_id; a structured one has none."""
    if _structured_file(path) is not None:
        return {}
    return {row["sample_id"]: row["target"] for row in read_rows(path)}


def _structured_file(path: Path) -> dict[str, list[dict[str, Any]]] | None:
    """None where the file is no single object of lists, by task."""
    try:
        content = json.loads(path.read_bytes())
    except OSError as problem:
        raise InputError(f"cannot read {path}: {problem.strerror}") from problem
    except (ValueError, RecursionError):
        return None
    if not isinstance(content, dict) or "sample_id" in content:
        return None
    seen: set[str] = set()
    for task, answers in content.items():
        where = f'{path}: task "{task}"'
        if task not in METRICS:
            raise InputError(f"{where} is unknown; known are {', '.join(METRICS)}")
        if not isinstance(answers, list):
            raise InputError(f"{where}: expected a list of answers")
        for number, one in enumerate(answers, start=1):
            _check_answer(one, task, f"{where}, answer {number}", seen)
    return content


def _check_answer(one: Any, task: str, where: str, seen: set[str]) -> None:
    if not isinstance(one, dict) or not isinstance(one.get("sample_id"), str):
        raise InputError(f'{where}: the field "sample_id" is missing or not a string')
    if one["sample_id"] in seen:
        raise InputError(f'{where}: sample_id "{one["sample_id"]}" is used twice')
    seen.add(one["sample_id"])
    fits, expected = _fits(one.get("answer"), task)
    if not fits:
        name = one["sample_id"]
        raise InputError(f'{where}: sample_id "{name}": the field "answer" is not {expected}')


def _fits(answer: Any, task: str) -> tuple[bool, str]:
    """Whether it is what the task's metric compares, and what that is."""
    if METRICS[task] is EXTRACTION:
        fits = isinstance(answer, list) and all(isinstance(item, dict) for item in answer)
        expected = "a list of objects"
    elif METRICS[task] is REPORT:
        fits = isinstance(answer, dict) and all(isinstance(text, str) for text in answer.values())
        expected = "an object of strings"
    else:
        fits, expected = isinstance(answer, str), "a string"
    return fits, expected


def _refuse_empty_labels(gold: Gold, path: Path) -> None:
    for task, answers in gold.items():
        for name, answer in answers.items():
            if METRICS[task].is_label and not answer:
                raise InputError(f'{path}: sample_id "{name}" of {task} has an empty gold label')


def read_predictions(path: Path, gold: Gold, gold_path: Path) -> dict[str, list[Row]]:
    """The rows of the gold's samples, by task, in its order. InputError unless all are there."""
    try:
        rows = {row["sample_id"]: row for row in read_rows(path)}
    except RowError as problem:
        raise InputError(str(problem)) from problem
    wanted = {name: task for task, answers in gold.items() for name in answers}
    _refuse_missing(sorted(wanted.keys() - rows.keys()), path)
    _refuse_missing(sorted(rows.keys() - wanted.keys()), gold_path)
    for name, task in wanted.items():
        other = rows[name]["task_dataset"]
        if other != task and not {task, other} <= {*RELATIONS}:
            raise InputError(
                f'{path}: sample_id "{name}": the field "task_dataset" is "{other}", '
                f'in {gold_path} it is "{task}"'
            )
    return {task: [rows[name] for name in answers] for task, answers in gold.items()}


def _refuse_missing(missing: Sequence[str], where: Path) -> None:
    if missing:
        more = " …" if missing[NAMES_SHOWN:] else ""
        raise InputError(
            f"{where} lacks {len(missing)} rows of the other file: "
            f"{', '.join(missing[:NAMES_SHOWN])}{more}. Give predictions for these gold rows"
        )
