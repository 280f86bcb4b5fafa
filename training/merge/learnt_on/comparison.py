"""How far the base that is merged into lies from the one that an adapter was trained on."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from training.merge.composition import Part
from training.merge.learnt_on.base import dequantised_rows
from training.merge.learnt_on.layers import quantised_weights
from training.merge.learnt_on.record import BaseQuantisation, LearntOn, read_record
from training.merge.lora import total_change
from training.model_directory.directory import ModelDirectory
from training.weights.rounding import exact_rows


@dataclass(frozen=True)
class Distance:
    """Over the layers that an adapter changes: norms of quantisation error and of its change."""

    adapter: str
    scheme: str
    error: float
    change: float

    @property
    def ratio(self) -> float:
        """Of the error to the change."""
        return self.error / self.change

    def __str__(self) -> str:
        return (
            f"{self.adapter} was learnt on the base in {self.scheme} and is merged into the base in"
            f" full: ‖quantisation error‖ / ‖ΔW‖ = {self.ratio:.3g} over the layers it changes"
            " (--into dequantised merges into what it was learnt on, --verify compares both)"
        )


def compare(
    base: ModelDirectory, found: Mapping[Path, BaseQuantisation], parts: Mapping[str, Part]
) -> LearntOn:
    """Of the adapters whose records were `found`."""
    if merged_into := read_record(base.path):
        note = f"merged into the base as it was in training: {merged_into.scheme}, dequantised"
        return LearntOn([note], _details(found, merged_into="dequantised"))
    distances = [_distance(base, *each, parts) for each in found.items()]
    return _in_full(found, [each for each in distances if each.change])


def _in_full(found: Mapping[Path, BaseQuantisation], distances: Sequence[Distance]) -> LearntOn:
    ratios = {each.adapter: each.ratio for each in distances}
    details = _details(found, merged_into="in full", error_to_change=ratios)
    return LearntOn([*map(str, distances)], details)


def _details(found: Mapping[Path, BaseQuantisation], **more: object) -> dict[str, object]:
    learnt = {path.name: asdict(record) for path, record in found.items()}
    return {"learnt_on": {"adapters": learnt, **more}}


def _distance(
    base: ModelDirectory, adapter: Path, record: BaseQuantisation, parts: Mapping[str, Part]
) -> Distance:
    names = sorted(quantised_weights(base) & parts.keys())
    squares = [each for name in names for each in _squares(parts[name], adapter, record)]
    error, change = np.array(squares).reshape(-1, 2).sum(axis=0) ** 0.5
    return Distance(adapter.name, record.scheme, float(error), float(change))


def _squares(part: Part, adapter: Path, record: BaseQuantisation) -> Iterator[tuple[float, float]]:
    """Sums of squares of what quantising and what the adapter changes, some rows at a time."""
    pairs = [pair for pair in part.pairs if pair.path.parent == adapter]
    if not pairs:
        return
    change, first = total_change(pairs), 0
    for rows in dequantised_rows(part.source, record):
        some = range(first, first + len(rows))
        plain = exact_rows(part.source, None, some)
        error = plain - rows.double().numpy()
        delta = exact_rows(part.source, change, some) - plain
        yield float((error**2).sum()), float((delta**2).sum())
        first = some.stop
