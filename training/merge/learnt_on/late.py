"""The ways into this package: what needs torch is imported for adapters that need it."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import ModuleType

from training.merge.composition import Part
from training.merge.learnt_on.record import LearntOn, read_record
from training.model_directory.directory import ModelDirectory


def look(base: ModelDirectory, adapters: Sequence[Path], parts: Mapping[str, Part]) -> LearntOn:
    """Compare the bases that `adapters` were learnt on with the one they are merged into.

    Raises TrainingError when a record is damaged.
    """
    found = {path: record for path in adapters if (record := read_record(path))}
    if not found:
        return LearntOn([], {})
    compared: LearntOn = _with_torch().compare(base, found, parts)
    return compared


def noted_losses(
    base: Path, adapters: Sequence[Path], merged: Path, prompts: Sequence[str]
) -> list[str]:
    """A note on the losses before and after, of one adapter learnt on a quantised base.

    Both models run in fp32 on its run's own evaluation rows; on `prompts` where it has none.
    Raises TrainingError when the rows are not what they were.
    """
    record = read_record(adapters[0]) if len(adapters) == 1 else None
    if record is None or read_record(base):  # merged into just that base
        return []
    return [str(_with_torch().compare_losses(base, adapters[0], record, merged, prompts))]


def dequantised_base(
    base: Path, adapters: Sequence[Path], output: Path
) -> AbstractContextManager[Path]:
    """base.dequantised_base."""
    entered: AbstractContextManager[Path] = _with_torch().dequantised_base(base, adapters, output)
    return entered


def _with_torch() -> ModuleType:
    from training.merge.learnt_on import with_torch

    return with_torch
