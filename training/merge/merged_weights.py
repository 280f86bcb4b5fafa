"""The merged model's weights, chunk by chunk: computed, hashed and written by a thread each."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import prod

from training.errors import TrainingError
from training.merge.composition import Part
from training.merge.lora import total_change
from training.weights.pipeline import done_ahead
from training.weights.rounding import CHUNK_ELEMENTS, Tally, copy_chunk, merge_chunk, rounded
from training.weights.safetensors_stream import FLOAT_SIZES, Bytes, StoredTensor, as_bits
from training.weights.shards import Shard, write_shards

AHEAD = 4  # chunks computed while others are hashed and written; a second thread only contends


@dataclass
class Written:
    """What was written: sha256 by file name, names of changed tensors, the rounding tally."""

    sums: dict[str, str] = field(default_factory=dict)
    changed: set[str] = field(default_factory=set)
    tally: Tally = field(default_factory=Tally)


@dataclass(frozen=True)
class Chunk:
    """Some bytes of the output tensor `name`; `tally` when a low-rank change is in them."""

    name: str
    data: Bytes
    tally: Tally | None = None


def write_merged(shards: Sequence[Shard], parts: Mapping[str, Part]) -> Written:
    """Write every planned shard and the index, and check them.

    Raises TrainingError when a weight holds NaN or Inf, or the disk something else.
    """
    written = Written(changed={n for n, part in parts.items() if part.replaced or part.rows})

    def chunks(shard: Shard) -> Iterator[Bytes]:
        return _take(done_ahead(_jobs(shard, parts), AHEAD), written)

    written.sums |= write_shards("merge", shards, chunks)
    return written


def _take(chunks: Iterator[Chunk], written: Written) -> Iterator[Bytes]:
    """Count what passes by. In order, so that equal inputs give equal sums."""
    for chunk in chunks:
        if chunk.tally:
            written.tally.add(chunk.tally)
            if chunk.tally.differs:
                written.changed.add(chunk.name)
        yield chunk.data


def _jobs(shard: Shard, parts: Mapping[str, Part]) -> Iterator[Callable[[], Chunk]]:
    for target in shard:
        part = parts[target.name]
        if part.pairs:
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
