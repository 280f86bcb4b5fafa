"""`python -m service.integrity MODEL`: is a model directory still what its provenance.json says?

To be run before a server starts: what was copied in part, damaged, or mixed with another model's
files is refused with what is wrong, instead of served. Hidden files are nobody's business.
"""

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Iterable, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path, PurePosixPath
from tempfile import mkstemp
from threading import Lock
from typing import Any

from service.pipes import run

PROVENANCE = "provenance.json"
INDEX = ".safetensors.index.json"
CHUNK = 4 << 20  # bytes read at once
THREADS = 4  # files hashed at the same time: sha256 lets go of the interpreter
PERIOD_S = 10.0  # between two lines of progress
AGAIN = "copy the model here again, all of it"
WEIGHTS_ONLY = f"{PROVENANCE} covers the weights only: merge or convert again to cover the rest"
RECORDED = "recorded as found by service.integrity: shows later changes, not where this comes from"


class IntegrityError(Exception):
    """The directory is not what it should be; the message says what, where, and the remedy."""


@dataclass(frozen=True)
class Summary:
    """How many files of how many bytes were read; notes for the user."""

    files: int
    size: int
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.files} file{'' if self.files == 1 else 's'}, {self.size / 1e9:.2f} GB"


Sums = dict[str, str]
"""sha256 by the file's path in the model directory."""


def verify(model: Path) -> Summary:
    """Compare every file of `model` with provenance.json.

    Raises IntegrityError when a file differs, is missing or one too many, or provenance.json is of
    no use, and OSError when something cannot be read.
    """
    weights, others = _read_sums(model)
    expected = weights | (others or {})
    missing = [name for name in expected if not (model / name).is_file()]
    if missing:
        raise IntegrityError(f"{model}: {_list(missing)} missing: {AGAIN}")
    _refuse_others(model, expected.keys(), weights_only=others is None)
    _check_indexes(model, weights)
    found, size = _hash(model, expected)
    damaged = [name for name in expected if found[name] != expected[name]]
    if damaged:
        raise IntegrityError(f"{model}: {_list(damaged)} not what {PROVENANCE} says: {AGAIN}")
    return Summary(len(found), size, () if others is not None else (WEIGHTS_ONLY,))


def record(model: Path) -> Summary:
    """Write a provenance.json for a model that came without one.

    Raises IntegrityError when there is one already, or no complete model to record, and OSError
    when something cannot be read or written.
    """
    _refuse_no_directory(model)
    if os.path.lexists(model / PROVENANCE):
        raise IntegrityError(
            f"{model / PROVENANCE} exists already: verify without --record, or remove it first if"
            " the directory is to be trusted as it is"
        )
    names = _present(model)
    weights = [name for name in names if _is_weights(name)]
    if not weights:
        raise IntegrityError(
            f"{model} has no *.safetensors: `python -m training.convert hf` makes them from .bin"
        )
    _check_indexes(model, weights)
    found, size = _hash(model, names)
    files = {name: found.pop(name) for name in weights}
    sums = {"note": RECORDED, "files": files, "other_files": found, "sha256": _one_sum(files)}
    _write(model, json.dumps(sums, indent=2) + "\n")
    return Summary(len(names), size)


def _read_sums(model: Path) -> tuple[Sums, Sums | None]:
    """The sums of the weights and of all else, None from before those were written."""
    _refuse_no_directory(model)
    path = model / PROVENANCE
    if not path.is_file():
        raise IntegrityError(
            f"{model} has no {PROVENANCE} to compare it with: training.merge and training.convert"
            " write one; for a model from elsewhere that is known to be right,"
            f" `python -m service.integrity --record {model}` does"
        )
    content = _read_json(path)
    weights = _sums(path, content, "files")
    if content.get("sha256") != _one_sum(weights):
        raise IntegrityError(f"{path}: sha256 does not stand for its files: {AGAIN}")
    return weights, _sums(path, content, "other_files") if "other_files" in content else None


def _refuse_no_directory(model: Path) -> None:
    if not model.is_dir():
        raise IntegrityError(f"{model} is no directory: mount or copy the model there")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except ValueError as error:
        raise IntegrityError(f"{path} cannot be read as JSON ({error}): {AGAIN}") from error
    if not isinstance(value, dict):
        raise IntegrityError(f"{path} holds no JSON object: {AGAIN}")
    return value


def _refuse_others(model: Path, expected: Set[str], *, weights_only: bool) -> None:
    """What another model left would be used too: weights, a chat template, added tokens."""
    extra = {*_present(model)} - expected - {PROVENANCE}
    extra = {*filter(_is_weights, extra)} if weights_only else extra
    if extra:
        problem = f"{_list(sorted(extra))} not in {PROVENANCE}, perhaps left from another model"
        raise IntegrityError(f"{model}: {problem}: remove what is not of this one")


def _stays_inside(name: str) -> bool:
    inside = PurePosixPath(name)
    return str(inside) == name and not inside.is_absolute() and ".." not in inside.parts


def _sums(path: Path, content: Mapping[str, Any], key: str) -> Sums:
    """The sums under `key`; no name in them may lead out of the directory."""
    sums = content.get(key)
    weights = key == "files"
    if not isinstance(sums, dict) or (weights and not sums) or not _all_texts(sums.values()):
        raise IntegrityError(f"{path}: {key} must map file names to sha256 sums: {AGAIN}")
    allowed = _is_weights if weights else _stays_inside
    others = [name for name in sums if not allowed(name)]
    if others:
        raise IntegrityError(
            f"{path}: {key} names {others[0]!r}, which is no such file of this directory: {AGAIN}"
        )
    return sums


def _all_texts(values: Iterable[Any]) -> bool:
    return all(isinstance(value, str) for value in values)


def _is_weights(name: str) -> bool:
    return name.endswith(".safetensors") and "/" not in name and _stays_inside(name)


def _one_sum(weights: Mapping[str, str]) -> str:
    """The sum of what `sha256sum *.safetensors` prints."""
    listing = "".join(f"{digest}  {name}\n" for name, digest in sorted(weights.items()))
    return sha256(listing.encode(errors="replace")).hexdigest()


def _present(model: Path) -> list[str]:
    files = (path.relative_to(model) for path in model.rglob("*") if path.is_file())
    return sorted(path.as_posix() for path in files if not _is_hidden(path))


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _check_indexes(model: Path, weights: Iterable[str]) -> None:
    for path in model.glob(f"*{INDEX}"):
        parts = _read_json(path).get("weight_map")
        if not isinstance(parts, dict):
            raise IntegrityError(f"{path} has no weight_map: {AGAIN}")
        missing = sorted({str(part) for part in parts.values()} - {*weights})
        if missing:
            raise IntegrityError(f"{path}: {_list(missing)} named there but missing: {AGAIN}")


def _list(names: Sequence[str]) -> str:
    """The first names, with the verb that fits them."""
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return f"{shown} {'is' if len(names) == 1 else 'are'}"


def _hash(model: Path, names: Iterable[str]) -> tuple[Sums, int]:
    """The sha256 by name, and the bytes of all files together."""
    sizes = {}
    for name in names:  # opened first: what cannot be read is reported before minutes of hashing
        with (model / name).open("rb") as file:
            sizes[name] = os.fstat(file.fileno()).st_size
    total = sum(sizes.values())
    progress = _Progress(total)
    largest_first = sorted(sizes, key=lambda name: -sizes[name])
    with ThreadPoolExecutor(THREADS) as pool:
        found = pool.map(lambda name: _sha256(model / name, progress), largest_first)
        by_name = dict(zip(largest_first, found, strict=True))
    return {name: by_name[name] for name in sizes}, total


def _sha256(path: Path, progress: "_Progress") -> str:
    digest, buffer = sha256(), memoryview(bytearray(CHUNK))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
            progress.add(count)
    return digest.hexdigest()


class _Progress:
    """A line now and then: a container's log has no place for a bar."""

    def __init__(self, total: int) -> None:
        self._done, self._total, self._lock = 0, total, Lock()
        self._due = time.monotonic() + PERIOD_S

    def add(self, size: int) -> None:
        with self._lock:
            self._done += size
            if time.monotonic() >= self._due:
                done, total = self._done / 1e9, self._total / 1e9
                print(f"{done:.1f} of {total:.1f} GB read", file=sys.stderr, flush=True)
                self._due = time.monotonic() + PERIOD_S


def _write(model: Path, text: str) -> None:
    """Write provenance.json at once or not at all, for every user to read."""
    handle, name = mkstemp(dir=model, prefix=".provenance-")
    aside = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        aside.chmod(0o644)
        aside.rename(model / PROVENANCE)
    except BaseException:
        aside.unlink()
        raise


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; 0 when all is well, 2 after printing what is not."""
    args = _parse(argv)
    try:
        summary = record(args.model) if args.record else verify(args.model)
    except IntegrityError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {_described(error, args)}", file=sys.stderr)
        return 2
    outcome = f"recorded in {PROVENANCE}" if args.record else f"as {PROVENANCE} says"
    print(f"{args.model}: {summary}, {outcome}")
    for note in summary.notes:
        print(f"note: {note}")
    return 0


def _described(error: OSError, args: argparse.Namespace) -> str:
    rights = isinstance(error, PermissionError) and not args.record
    remedy = f": let every user read it, chmod -R a+rX {args.model}" if rights else ""
    return f"{error.filename or args.model}: {error.strerror}{remedy}"


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m service.integrity", description=__doc__)
    default = os.environ.get("SERVICE_MODEL")
    parser.add_argument(
        "model",
        type=Path,
        nargs="?" if default else None,
        default=default,
        metavar="MODEL",
        help="model directory (default: $SERVICE_MODEL)",
    )
    parser.add_argument(
        "--record",
        action="store_true",
        help=f"write a {PROVENANCE} for a model from elsewhere that came without one",
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):  # at once, though threads are still reading
        signal.signal(number, lambda received, _: os._exit(128 + received))
    run(main)
