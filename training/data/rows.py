"""Instruction data: JSON lines with one prompt and one response an object."""

import json
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from training.errors import TrainingError, refuse
from training.files import read_text

Rounds = tuple[tuple[str, str], ...]
ROUNDS: TypeAdapter[Rounds] = TypeAdapter(Rounds)


@dataclass(frozen=True)
class Row:
    """One training sample as text, and where it came from."""

    prompt: str
    response: str
    where: str
    """`file:line`, for messages."""
    history: Rounds = ()
    """Earlier rounds of the conversation, oldest first: question and answer."""


def read_rows(path: Path, prompt: str, response: str, history: str | None = None) -> list[Row]:
    """Read every line of `path`; `prompt`, `response` and `history` name the columns.

    The history may be missing in a row or null. Only a line feed ends a line: a U+2028 inside a
    JSON string is text. Blank lines are passed over.
    Raises TrainingError with file and line of everything that is not a usable sample.
    """
    rows: list[Row] = []
    problems: list[str] = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            try:
                rows.append(_row(line, f"{path}:{number}", (prompt, response, history)))
            except TrainingError as error:
                problems.append(str(error))
    refuse(problems)
    if not rows:
        raise TrainingError(f"{path}: no samples in it, expected one JSON object a line")
    return rows


def _row(line: str, where: str, columns: tuple[str, str, str | None]) -> Row:
    try:
        fields = json.loads(line)
    except json.JSONDecodeError as error:
        raise TrainingError(f"{where}: broken JSON: {error.msg} at column {error.colno}") from error
    except (ValueError, RecursionError) as error:  # a number or a nesting beyond Python's limits
        raise TrainingError(f"{where}: broken JSON: {error}") from error
    if not isinstance(fields, dict):
        raise TrainingError(f"{where}: expected a JSON object, got {type(fields).__name__}")
    prompt, response, history = columns
    rounds = _rounds(fields.get(history), history, where) if history else ()
    return Row(_text(fields, prompt, where), _text(fields, response, where), where, rounds)


def _rounds(value: object, column: str, where: str) -> Rounds:
    try:
        rounds = ROUNDS.validate_python(value or ())
    except ValidationError as error:
        raise TrainingError(
            f"{where}: column {column!r} must be a list of [question, answer] pairs of text"
        ) from error
    for text in chain(*rounds):
        _check_characters(text, column, where)
    return rounds


def _text(fields: dict[str, object], column: str, where: str) -> str:
    if column not in fields:
        raise TrainingError(
            f"{where}: no column {column!r} (it has {', '.join(fields)}): "
            "name yours with data.prompt=… and data.response=…"
        )
    value = fields[column]
    if not isinstance(value, str) or not value.strip():
        raise TrainingError(f"{where}: column {column!r} must be text that is not empty")
    _check_characters(value, column, where)
    return value


def _check_characters(text: str, column: str, where: str) -> None:
    r"""Refuse half a character: JSON can write "\ud83d", which no UTF-8 text and no token holds."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise TrainingError(
            f"{where}: column {column!r} holds half of a character"
            f" (\\u{ord(text[error.start]):04x}, at character {error.start}): what wrote the file"
            " cut an emoji or the like in two"
        ) from error
