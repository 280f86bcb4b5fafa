"""Directories that appear complete or not at all."""

import json
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import file_digest
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from training.errors import TrainingError

JsonObject = Mapping[str, Any]


@contextmanager
def write_aside(target: Path) -> Iterator[Path]:
    """Yield an empty sibling directory that becomes `target` when the block succeeds.

    Every file in it is made readable by everyone (a+r, directories a+rx). When the block fails, the
    sibling is removed and `target` never exists.
    Raises TrainingError when `target` exists already, before or after the block.
    """
    target = target.absolute()
    _refuse_existing(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    # mkdtemp: in a container every run may have the same pid as one killed before it
    aside = Path(mkdtemp(prefix=f".{target.name}.tmp-{os.getpid()}-", dir=target.parent))
    try:
        yield aside
        _make_readable(aside)
        _refuse_existing(target)
        aside.rename(target)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def read_text(path: Path) -> str:
    """Return the text of the UTF-8 file `path`; raise TrainingError when it is none."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise TrainingError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise TrainingError(f"{path} is not UTF-8 (byte {error.start}): convert it") from error


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in `path`.

    Raises TrainingError when the file is missing, unreadable, not JSON, or not an object.
    """
    try:
        value = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise TrainingError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise TrainingError(f"{path} must hold a JSON object, not {type(value).__name__}")
    return value


def read_optional_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in `path`, an empty one when there is no such file."""
    return read_json(path) if path.exists() else {}


def write_json(path: Path, value: JsonObject) -> None:
    """Write `value` to `path`, indented, Chinese characters as they are."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def sha256(path: Path) -> str:
    """Return the sha256 of a file, as sha256sum prints it."""
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def _refuse_existing(target: Path) -> None:
    if target.exists() or target.is_symlink():
        raise TrainingError(f"{target} exists already: choose another output or remove it first")


def _make_readable(root: Path) -> None:
    for path in (root, *root.rglob("*")):
        if not path.is_symlink():
            extra = 0o555 if path.is_dir() else 0o444
            path.chmod(stat.S_IMODE(path.stat().st_mode) | extra)
