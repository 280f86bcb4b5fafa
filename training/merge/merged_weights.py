"""The merged model's weights, chunk by chunk: computed, hashed and written by a thread each."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import prod

import numpy as np
from numpy.typing import NDArray

from training.errors import TrainingError
from training.merge.composition import Part
from training.merge.lora import total_change
from training.merge.quantisation import SCALE, WEIGHT, Quantisation
from training.weights.pipeline import done_ahead
from training.weights.quantising import Error, Quantised, quantise
from training.weights.rounding import (
    CHUNK_ELEMENTS,
    Tally,
    copy_chunk,
    exact_rows,
    merge_chunk,
    rounded,
)
from training.weights.safetensors_stream import (
    FLOAT_SIZES,
    QUANTISED_SIZES,
    Bytes,
    StoredTensor,
    as_bits,
)
from training.weights.shards import Shard, write_shards

AHEAD = 4  # chunks computed while others are hashed and written; a second thread only contends


@dataclass
class Written:
    """What was written: sha256 by file name, names of changed tensors, the rounding tally."""

    sums: dict[str, str] = field(default_factory=dict)
    changed: set[str] = field(default_factory=set)
    tally: Tally = field(default_factory=Tally)
    scales: dict[str, list[NDArray[np.float32]]] = field(default_factory=dict)
    """Of quantised weights, by the weight's name, chunk by chunk."""
    errors: dict[str, Error] = field(default_factory=dict)


@dataclass(frozen=True)
class Chunk:
    """Some bytes of the output tensor `name`; `tally` when a low-rank change is in them."""

    name: str
    data: Bytes
    tally: Tally | None = None
    quantised: Quantised | None = None


def write_merged(
    shards: Sequence[Shard], parts: Mapping[str, Part], quantisation: Quantisation | None = None
) -> Written:
    """Write every planned shard and the index, and check them.

    Raises TrainingError when a weight holds NaN or Inf, or the disk something else.
    """
    written = Written(changed={n for n, part in parts.items() if _surely_changes(part)})

    def chunks(shard: Shard) -> Iterator[Bytes]:
        if shard[0].name not in parts:
            return (_scales(target, written) for target in shard)
        return _take(done_ahead(_jobs(shard, parts, quantisation), AHEAD), written)

    written.sums |= write_shards("merge", shards, chunks)
    return written


def _surely_changes(part: Part) -> bool:
    """Whether no rounding could leave it as it was."""
    is_quantised = part.dtype in QUANTISED_SIZES
    return part.replaced or bool(part.rows) or (is_quantised and bool(part.pairs))


def _take(chunks: Iterator[Chunk], written: Written) -> Iterator[Bytes]:
    """Count what passes by. In order, so that equal inputs give equal sums."""
    for chunk in chunks:
        if chunk.tally:
            written.tally.add(chunk.tally)
            if chunk.tally.differs:
                written.changed.add(chunk.name)
        if chunk.quantised:
            written.scales.setdefault(chunk.name, []).append(chunk.quantised.scales)
            written.errors.setdefault(chunk.name, Error()).add(chunk.quantised.error)
        yield chunk.data


def _scales(target: StoredTensor, written: Written) -> Bytes:
    """Those of a weight, which lies in a shard before."""
    return np.concatenate(written.scales[target.name.replace(SCALE, WEIGHT)]).view(np.uint8)


def _jobs(
    shard: Shard, parts: Mapping[str, Part], quantisation: Quantisation | None
) -> Iterator[Callable[[], Chunk]]:
    for target in shard:
        part = parts[target.name]
        if quantisation and target.dtype == quantisation.scheme.dtype:
            yield from _quantising(target, part, quantisation)
        elif part.pairs:
            yield from _merging(target, part)
        elif part.rows:
            yield from _replacing(target, part)
        else:
            yield from _copying(target, part.source)


def _copying(target: StoredTensor, source: StoredTensor) -> Iterator[Callable[[], Chunk]]:
    count = prod(source.shape) if source.dtype in FLOAT_SIZES else source.size

    def copied(first: int) -> Chunk:
        step = min(CHUNK_ELEMENTS, count - first)
        return Chunk(target.name, copy_chunk(source, target.dtype, first, step))

    return (partial(copied, first) for first in range(0, count, CHUNK_ELEMENTS))


def _merging(target: StoredTensor, part: Part) -> Iterator[Callable[[], Chunk]]:
    change = total_change(part.pairs)
    rows, step = part.source.shape[0], _rows_in_chunk(part.source)

    def merged(first: int) -> Chunk:
        some = range(first, min(first + step, rows))
        try:
            return Chunk(target.name, *merge_chunk(part.source, target.dtype, change, some))
        except TrainingError as error:
            adapters = ", ".join(sorted({str(pair.path) for pair in part.pairs}))
            raise TrainingError(f"{error} (its change is that of {adapters})") from error

    return (partial(merged, first) for first in range(0, rows, step))


def _quantising(
    target: StoredTensor, part: Part, quantisation: Quantisation
) -> Iterator[Callable[[], Chunk]]:
    change = total_change(part.pairs) if part.pairs else None
    rows, step = part.source.shape[0], _rows_in_chunk(part.source)

    def quantised(first: int) -> Chunk:
        exact = exact_rows(part.source, change, range(first, min(first + step, rows)))
        made = quantise(exact, quantisation.scheme, clip=quantisation.clip)
        if not math.isfinite(made.error.weights):
            raise TrainingError(f"{part.source.path}: {part.source.name} holds NaN or Inf")
        return Chunk(target.name, made.codes.reshape(-1), quantised=made)

    return (partial(quantised, first) for first in range(0, rows, step))


def _replacing(target: StoredTensor, part: Part) -> Iterator[Callable[[], Chunk]]:
    new = {
        row: values
        for tokens in part.rows
        for row, values in zip(tokens.ids, rounded(tokens.rows, target.dtype), strict=True)
    }
    rows, step = part.source.shape[0], _rows_in_chunk(part.source)
    columns = prod(part.source.shape[1:])

    def replaced(first: int) -> Chunk:
        some = range(first, min(first + step, rows))
        data = copy_chunk(part.source, target.dtype, first * columns, len(some) * columns)
        out = as_bits(data, target.dtype).reshape(-1, columns)
        for row in new.keys() & some:
            out[row - first] = new[row]
        return Chunk(target.name, data)

    return (partial(replaced, first) for first in range(0, rows, step))


def _rows_in_chunk(source: StoredTensor) -> int:
    return max(1, CHUNK_ELEMENTS // prod(source.shape[1:]))
