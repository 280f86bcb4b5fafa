"""Which model a directory holds, by its bytes: two models of one name differ in it."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SMALL = 4 << 20  # bytes up to which a file is read whole, such as config, tokenizer, provenance
PIECES, PIECE = 16, 64 << 10  # read of a larger one, spread evenly
DIGITS = 16


def fingerprint(model: Path) -> str:
    """The same for every copy of a directory, another when what it holds is changed.

    Weights are sampled, since they take minutes to read; provenance.json, which merging writes
    beside them, holds the sha256 of all of them, so that no merge goes unseen.
    """
    digest = hashlib.sha256()
    for path in sorted(model.rglob("*")):
        if path.is_file() and not any(part.startswith(".") for part in _inside(path, model)):
            size = path.stat().st_size
            digest.update(f"{'/'.join(_inside(path, model))} {size}\n".encode())
            for piece in _pieces(path, size):
                digest.update(piece)
    return digest.hexdigest()[:DIGITS]


def combined(*facts: Any) -> str:
    """Another whenever one of these values, of JSON's types, is another."""
    text = json.dumps(facts, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]


def _inside(path: Path, model: Path) -> tuple[str, ...]:
    return path.relative_to(model).parts


def _pieces(path: Path, size: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        if size <= SMALL:
            yield file.read()
            return
        for number in range(PIECES):
            file.seek((size - PIECE) * number // (PIECES - 1))
            yield file.read(PIECE)
