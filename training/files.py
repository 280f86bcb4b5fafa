"""Directories that appear complete or not at all."""

import errno
import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import file_digest
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from training.errors import TrainingError

HALF = re.compile(r"\\u[dD][89a-fA-F]")  # of a character that JSON writes in two
ODD_VALUES = (
    *(ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError),
    AssertionError,
)
UNSUPPORTED = (errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.EACCES)
BLOCK, SAMPLES = 1 << 16, 64
JsonObject = Mapping[str, Any]


@contextmanager
def write_aside(target: Path, *, durable: bool = False) -> Iterator[Path]:
    """Yield an empty sibling directory that becomes `target` when the block succeeds.

    Every file in it is made readable by everyone (a+r, directories a+rx). When the block fails, the
    sibling is removed and `target` never exists. Where `durable`, all of it is on the disk before
    it gets its name, so that a power cut leaves it whole or not there.
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
        if durable:
            sync(aside, *aside.rglob("*"))
        aside.rename(target)
        if durable:
            sync(target.parent)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def sync(*paths: Path) -> None:
    """Wait until these files and directories are on the disk, a directory's names with it."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        except OSError as error:  # some shared folders cannot do it for directories
            if not path.is_dir() or error.errno not in UNSUPPORTED:
                raise
        finally:
            os.close(descriptor)


def write_durably(path: Path, text: str) -> None:
    """Write a small file: after a kill or a power cut it is the old one or the new one, whole."""
    aside = path.with_name(f".{path.name}")
    aside.write_text(text, encoding="utf-8")
    sync(aside)
    aside.replace(path)
    sync(path.parent)


@contextmanager
def parsing(path: Path, what: str) -> Iterator[None]:
    """Say that `path` is not `what` where its values are of other kinds than the block expects."""
    try:
        yield
    except ODD_VALUES as error:
        raise TrainingError(f"{path} is not {what}: {type(error).__name__}: {error}") from error


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
        text = read_text(path)
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise TrainingError(f"{path} is not valid JSON: {error}") from error
    if HALF.search(text) and not _is_writable(value):
        raise TrainingError(f"{path} holds half of a character, such as \\ud800: get it again")
    if not isinstance(value, dict):
        raise TrainingError(f"{path} must hold a JSON object, not {type(value).__name__}")
    return value


def _is_writable(value: object) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


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


def fingerprint(path: Path) -> str:
    """Return the sha256 of a file's size and its bytes, of a large one of 64 KiB in every 64th."""
    size = path.stat().st_size
    step = max(BLOCK, size // SAMPLES)
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for start in range(0, size, step):
            file.seek(start)
            digest.update(file.read(BLOCK))
    return digest.hexdigest()


def _refuse_existing(target: Path) -> None:
    if target.exists() or target.is_symlink():
        raise TrainingError(f"{target} exists already: choose another output or remove it first")


def _make_readable(root: Path) -> None:
    for path in (root, *root.rglob("*")):
        if not path.is_symlink():
            extra = 0o555 if path.is_dir() else 0o444
            path.chmod(stat.S_IMODE(path.stat().st_mode) | extra)
