"""A converted model's weights: written shard by shard with a progress bar, then checked."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from math import prod
from pathlib import Path

from training.weights.rounding import CHUNK_ELEMENTS, copy_chunk
from training.weights.safetensors_stream import FLOAT_SIZES, Bytes, StoredTensor, Tensors
from training.weights.shards import Shard, plan_shards, total_size, write_shards
from training.weights.torch_files import CODES

Chunks = Callable[[StoredTensor], Iterable[Bytes]]
"""Gives the bytes of a planned tensor, in order, a few megabytes at a time."""


@dataclass(frozen=True)
class ConversionReport:
    """What a conversion wrote: counts of tensors, bytes and weights files; notes for the user."""

    tensors: int
    size: int
    files: int
    notes: list[str]


def write_copies(
    tensors: Tensors, directory: Path, limit: int, dtype: str | None
) -> tuple[list[Shard], dict[str, str]]:
    """Write the values of `tensors` under their keys, in files of at most `limit` bytes.

    `dtype` is float16, bfloat16 or float32, None keeps each tensor's own. Returns what is in which
    file, and each file's sha256 by name.
    Raises TrainingError as write_converted and copied do.
    """
    named = [replace(tensor, name=name) for name, tensor in tensors.items()]
    shards = plan_shards(named, directory, limit, CODES.get(dtype))
    return shards, write_converted(shards, lambda to: copied(tensors[to.name], to.dtype))


def write_converted(shards: Sequence[Shard], chunks: Chunks) -> dict[str, str]:
    """Write the planned `shards` and their index; return the sha256 of each file by name.

    Raises TrainingError when the chunks do not make up the plan, or the disk holds something else.
    """
    return write_shards("convert", shards, lambda shard: chain.from_iterable(map(chunks, shard)))


def copied(source: StoredTensor, dtype: str) -> Iterator[Bytes]:
    """Yield the bytes of `source`, rounded to `dtype` if it is a floating tensor, in chunks.

    Raises TrainingError when the weight or the result holds NaN or Inf.
    """
    count = prod(source.shape) if source.dtype in FLOAT_SIZES else source.size
    for first in range(0, count, CHUNK_ELEMENTS):
        yield copy_chunk(source, dtype, first, min(CHUNK_ELEMENTS, count - first))


def summarise(shards: Sequence[Shard], notes: list[str]) -> ConversionReport:
    """Return the counts of what `shards` hold."""
    return ConversionReport(sum(map(len, shards)), total_size(shards), len(shards), notes)
