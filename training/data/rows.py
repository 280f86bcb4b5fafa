"""Files of instruction data: JSON lines with one conversation an object."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from training.data.formats import Fields, Format, Layout, recognise, to_row
from training.data.messages import Row
from training.errors import TrainingError, refuse
from training.files import read_text

TASK = "task_dataset"
"""PromptCBLUE's column for the task of a row."""
LIST = (
    "a JSON list; rows of two columns stand one a line, as the client reads them too:"
    " jq -c '.[]' FILE writes them so"
)


def load_rows(path: Path, layout: Layout) -> list[Row]:
    """Read JSON lines, or a JSON list of chat data; all rows have the format of the first one.

    Only a line feed ends a line: a U+2028 inside a JSON string is text. Blank lines are passed
    over.
    Raises TrainingError with file and line of everything that is not a usable sample.
    """
    rows, problems = scan_rows(path, layout)
    refuse(problems)
    if not rows:
        raise TrainingError(f"{path}: no samples in it, expected one JSON object a line")
    return rows


def read_rows(path: Path, prompt: str, response: str, history: str | None = None) -> list[Row]:
    """As `load_rows`, of a file with a column of prompts and one of answers."""
    return load_rows(path, Layout("columns", prompt, response, history))


def scan_rows(path: Path, layout: Layout) -> tuple[list[Row], list[str]]:
    """As `load_rows`; what is no usable sample is told beside those that are."""
    rows: list[Row] = []
    problems: list[str] = []
    form: Format | None = None
    for where, record in records(path):
        try:
            fields = to_fields(record, where)
            form = form or recognise(fields, layout, where)
            if form == "columns" and record is fields:
                return [], [f"{path}: {LIST}"]
            _refuse_other_format(fields, form, layout, where)
            rows.append(_with_task(to_row(fields, form, layout, where), fields.get(TASK)))
        except TrainingError as error:
            problems.append(str(error))
    return rows, problems


def _with_task(row: Row, task: object) -> Row:
    return replace(row, task=task) if isinstance(task, str) else row


def records(path: Path) -> Iterator[tuple[str, object]]:
    """Each row with its place, as text or as a member of the list that the file is."""
    text = read_text(path)
    if text.lstrip().startswith("["):
        whole = _parsed(text, str(path))
        yield from ((f"{path}[{number}]", each) for number, each in enumerate(whole))
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield f"{path}:{number}", line


def to_fields(record: object, where: str) -> Fields:
    """The object in a row. Raises TrainingError where there is none."""
    fields = _parsed(record, where) if isinstance(record, str) else record
    if not isinstance(fields, dict):
        raise TrainingError(f"{where}: expected a JSON object, got {type(fields).__name__}")
    return fields


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = f" of line {error.lineno}" if error.lineno > 1 else ""
        raise TrainingError(
            f"{where}: broken JSON: {error.msg} at column {error.colno}{line}"
        ) from error
    except (ValueError, RecursionError) as error:  # a number or a nesting beyond Python's limits
        raise TrainingError(f"{where}: broken JSON: {error}") from error


def _refuse_other_format(fields: Fields, form: Format, layout: Layout, where: str) -> None:
    if (found := recognise(fields, layout, where)) != form:
        raise TrainingError(
            f"{where}: a row of the format {found} in a file of the format {form}: keep each format"
            " in a file of its own"
        )
