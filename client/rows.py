"""Read and write JSON lines: one object a line, every field and the order kept."""

import csv
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from client import post_generate_process
from client.errors import InputError
from client.post_generate_process import RowError

Row = dict[str, Any]
NAMED = 5
FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")  # also in full width


@dataclass(frozen=True)
class RowFile:
    """The rows of one file in order, and the sha256 of the bytes they were read from."""

    path: Path
    rows: list[Row]
    sha256: str


def read_rows(path: Path, *required: str) -> RowFile:
    """Read JSON lines whose `required` fields are strings and whose sample_ids are unique.

    A BOM and blank lines are skipped. Raises InputError with file and line.
    """
    content = read_bytes(path)
    rows: list[Row] = []
    first_line: dict[str, int] = {}
    # Only \n ends a line: str.splitlines would also cut at a U+2028 inside a text.
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        row = _parse(line, where)
        _refuse_other_fields(row, required, where)
        if "sample_id" in row:
            _refuse_duplicate(str(row["sample_id"]), number, first_line, where)
        rows.append(row)
    if not rows:
        raise InputError(f"{path}: no rows; expected JSON lines, one object a line")
    return RowFile(path, rows, hashlib.sha256(content).hexdigest())


def read_checked_rows(path: Path, *, loose: bool = True) -> list[Row]:
    """Read JSON lines that follow the benchmark's rules. Raises InputError.

    `loose` passes over a BOM and blank lines, as read_rows does; the benchmark does not.
    """
    try:
        rows = [*post_generate_process.read_rows(path, loose=loose)]
    except RowError as problem:
        raise InputError(str(problem)) from problem
    if not rows:
        raise InputError(f"{path}: no rows; expected JSON lines, one object a line")
    return rows


def row_name(row: Row, index: int) -> str:
    """What to call a row in a message: its sample_id, else its place (counted from 1)."""
    return str(row["sample_id"]) if "sample_id" in row else f"row {index + 1}"


def empty_answers(rows: Sequence[Row]) -> str | None:
    """What to say of rows whose target is blank; None where there are none."""
    names = [row_name(row, place) for place, row in enumerate(rows) if not row["target"].strip()]
    if not names:
        return None
    more = ", …" if len(names) > NAMED else ""
    return (
        f"{len(names)} of {len(rows)} answers are empty and will score nothing:"
        f" {', '.join(names[:NAMED])}{more} (predict_testset.py --retry-empty asks for them again)"
    )


def refuse_overwriting(output: Path, *read: Path) -> None:
    """Raise InputError where writing `output` would replace a folder or a file that is read."""
    if output.is_dir() or output.resolve() in {path.resolve() for path in read}:
        raise InputError(f"{output} is an input or a folder: name another file to write")


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write JSON lines: a reader sees all of the file or none of it."""
    with written_aside(path) as aside, aside.open("wb") as file:
        for row in rows:
            file.write(_encode(row) + b"\n")
        file.flush()
        os.fsync(file.fileno())


def write_csv(path: Path, rows: list[Row]) -> None:
    """Write a table with a column for each field; what is no text stands there as JSON.

    It begins with a BOM, without which Excel misreads Chinese. A spreadsheet would run a cell that
    begins like a formula, and the text is a model's: an apostrophe in front makes it text.
    """
    fields = list(dict.fromkeys(name for row in rows for name in row))
    with written_aside(path) as aside, aside.open("w", encoding="utf-8-sig", newline="") as file:
        table = csv.DictWriter(file, fields, restval="")
        for row in ({name: name for name in fields}, *rows):
            table.writerow({name: _cell(value) for name, value in row.items()})


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    runs = value.lstrip().startswith(FORMULA) or value.startswith(("\t", "\r"))
    return f"'{value}" if runs else value


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """A file beside `path` to write to, which then takes its place; after an error it is gone.

    Raises InputError when the system does not let us write.
    """
    aside = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        yield aside
        aside.replace(path)
    except OSError as problem:
        raise InputError(f"cannot write {path}: {problem.strerror}") from problem
    finally:
        aside.unlink(missing_ok=True)


def read_bytes(path: Path) -> bytes:
    """Raises InputError."""
    try:
        return path.read_bytes()
    except OSError as problem:
        raise InputError(f"cannot read {path}: {problem.strerror}") from problem


def _parse(line: bytes, where: str) -> Row:
    try:
        row: Row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as problem:
        raise InputError(f"{where}: not UTF-8 (byte {problem.start}); convert the file") from None
    except (ValueError, RecursionError) as problem:
        raise InputError(f"{where}: broken JSON: {problem}") from None
    if not isinstance(row, dict):
        raise InputError(f"{where}: expected a JSON object, found {type(row).__name__}")
    return row


def _refuse_other_fields(row: Row, required: Iterable[str], where: str) -> None:
    for field in required:
        if not isinstance(row.get(field), str):
            state = "is not a string" if field in row else "is missing"
            raise InputError(f'{where}: the field "{field}" {state}')
    try:
        _encode(row)
    except UnicodeEncodeError:
        raise InputError(f"{where}: half of a surrogate pair (\\ud8xx) is no character") from None


def _refuse_duplicate(sample_id: str, number: int, first_line: dict[str, int], where: str) -> None:
    first = first_line.setdefault(sample_id, number)
    if first != number:
        raise InputError(f'{where}: sample_id "{sample_id}" is already used in line {first}')


def _encode(row: Row) -> bytes:
    return json.dumps(row, ensure_ascii=False).encode("utf-8")
