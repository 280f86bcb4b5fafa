"""provenance.json: what a model directory was merged from, and the sums that prove it."""

import hashlib
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Protocol

from training.files import JsonObject, read_optional_json, sha256, write_json
from training.model_directory.hub import public_name, weights_sums

PROVENANCE = "provenance.json"


class Source(Protocol):
    """An adapter of any kind."""

    def provenance(self) -> dict[str, object]:
        """What is worth knowing of it, its sha256 among that."""


def write_provenance(
    output: Path,
    base: Path,
    adapters: Sequence[Source],
    sums: Mapping[str, str],
    details: JsonObject,
) -> None:
    """Write names, settings, versions, the merge's own check (`details`) and `sums` by file.

    `sums` are what `sha256sum *.safetensors` prints; `sha256` is the sum of that output, so one
    value stands for all weights. `other_files` has the sums of all else in `output`, so this comes
    last; `python -m service.integrity` compares both. Holds no paths, no times: equal inputs give
    equal files.
    """
    sums_of_base = weights_sums(base)
    listing = "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items()))
    provenance = {
        "base": {"name": public_name(base), **({"files": sums_of_base} if sums_of_base else {})},
        "adapters": [adapter.provenance() for adapter in adapters],
        **details,
        "versions": _versions(),
        "files": dict(sums),
        "other_files": _other_sums(output, sums),
        "sha256": hashlib.sha256(listing.encode()).hexdigest(),
    }
    write_json(output / PROVENANCE, provenance)


def add_files(output: Path, **changes: object) -> None:
    """Sum up in provenance.json, if `output` has one, what was put beside; make other `changes`."""
    provenance = read_optional_json(output / PROVENANCE)
    if not provenance:
        return
    (output / PROVENANCE).unlink()
    provenance["other_files"] = _other_sums(output, provenance["files"])
    write_json(output / PROVENANCE, {**provenance, **changes})


def _other_sums(output: Path, weights: Mapping[str, str]) -> dict[str, str]:
    """The sha256 of what else is in `output`, by its path there."""
    files = {path.relative_to(output).as_posix(): path for path in sorted(output.rglob("*"))}
    return {
        name: sha256(path) for name, path in files.items() if path.is_file() and name not in weights
    }


def _versions() -> dict[str, str]:
    return {"python": platform.python_version()} | {
        package: _version(package) for package in ("mergeline", "numpy", "numba")
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # run from a checkout that was never installed
        return "not installed"
