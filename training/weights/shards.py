"""The output's safetensors files: planned from headers alone, streamed, checked."""

import json
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from hashlib import sha256
from itertools import chain
from math import prod
from pathlib import Path

from training.errors import TrainingError
from training.files import write_json
from training.progress import Meter
from training.weights.directory import read_model
from training.weights.safetensors_stream import (
    FLOAT_SIZES,
    INDEX,
    QUANTISED_SIZES,
    SINGLE,
    Bytes,
    StoredTensor,
)

Shard = list[StoredTensor]


def plan_shards(
    tensors: Iterable[StoredTensor],
    directory: Path,
    limit: int,
    dtype: str | None,
    last: Sequence[StoredTensor] = (),
) -> list[Shard]:
    """Return where each tensor will lie in `directory`: one list a shard of at most `limit` bytes.

    A tensor larger than `limit` has a shard of its own. `dtype` (F16, BF16, F32) replaces the
    dtype of every floating tensor; without it each keeps its own. Those of `last` lie in a shard
    behind all others, as they are.
    """
    shards: list[Shard] = [[]]
    filled = 0
    for tensor in (as_dtype(each, dtype) for each in tensors):
        if filled and filled + tensor.size > limit:
            shards.append([])
            filled = 0
        shards[-1].append(tensor)
        filled += tensor.size
    shards += [[*last]] if last else []
    return [
        _place(shard, directory / _shard_name(number, len(shards)))
        for number, shard in enumerate(shards, start=1)
    ]


def as_dtype(tensor: StoredTensor, dtype: str | None) -> StoredTensor:
    """Return a floating tensor's plan as `dtype`, any other tensor as it is."""
    if dtype is None or tensor.dtype not in FLOAT_SIZES:
        return tensor
    size = (FLOAT_SIZES | QUANTISED_SIZES)[dtype]
    return replace(tensor, dtype=dtype, size=prod(tensor.shape) * size)


def _shard_name(number: int, count: int) -> str:
    return SINGLE if count == 1 else f"model-{number:05d}-of-{count:05d}.safetensors"


def _place(shard: Shard, path: Path) -> Shard:
    # wide elements first keep every tensor aligned to its element size
    shard = sorted(shard, key=lambda each: -each.size // max(1, prod(each.shape)))
    position = len(_header(shard))
    placed = []
    for tensor in shard:
        placed.append(replace(tensor, path=path, start=position))
        position += tensor.size
    return placed


def total_size(shards: Sequence[Shard]) -> int:
    """Return the bytes of all tensors."""
    return sum(tensor.size for tensor in chain(*shards))


def _header(shard: Shard) -> bytes:
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    position = 0
    for tensor in shard:
        offsets = [position, position + tensor.size]
        entries[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": tensor.shape,
            "data_offsets": offsets,
        }
        position += tensor.size
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def write_shards(
    title: str, shards: Sequence[Shard], chunks: Callable[[Shard], Iterable[Bytes]]
) -> dict[str, str]:
    """Write every planned shard and the index, then check them; return each file's sha256 by name.

    `chunks` gives a shard's bytes; `title` stands before the progress bar.
    Raises TrainingError when the chunks do not make up the plan, or the disk holds something else.
    """
    sums = {}
    with Meter(title, total_size(shards), "B") as meter:
        for shard in shards:
            sums[shard[0].path.name] = write_shard(shard, _counted(chunks(shard), meter))
    write_index(shards)
    check_shards(shards, sums)
    return sums


def _counted(chunks: Iterable[Bytes], meter: Meter) -> Iterator[Bytes]:
    for chunk in chunks:
        yield chunk
        meter.update(len(chunk))


def write_shard(shard: Shard, chunks: Iterable[Bytes]) -> str:
    """Write one planned shard from its tensors' bytes in order; return the file's sha256.

    Raises TrainingError when the chunks do not add up to the plan.
    """
    path, header = shard[0].path, _header(shard)
    digest = sha256()
    with path.open("wb") as file, ThreadPoolExecutor(1) as hashing:
        file.write(header)
        hashed = hashing.submit(digest.update, header)
        for chunk in chunks:
            hashed.result()  # of the chunk before: at most two are waiting
            hashed = hashing.submit(digest.update, chunk.data)
            file.write(chunk.data)
        written = file.tell()
    if written != shard[-1].start + shard[-1].size:
        raise TrainingError(f"{path.name}: {written} bytes do not make up its plan: report this")
    return digest.hexdigest()


def write_index(shards: Sequence[Shard]) -> None:
    """Write the index beside the shards; a single shard needs none."""
    if len(shards) == 1:
        return
    index = {
        "metadata": {"total_size": total_size(shards)},
        "weight_map": {tensor.name: tensor.path.name for tensor in chain(*shards)},
    }
    write_json(shards[0][0].path.with_name(INDEX), index)


def check_shards(shards: Sequence[Shard], sums: Mapping[str, str]) -> None:
    """Reopen what was written: names, shapes, dtypes, places and sizes must be as planned.

    The bytes are not read again: right after writing they would come from the page cache and prove
    nothing about the disk. `sums`, their sha256 by file as summed up while writing, goes with the
    model instead, and must name every file.
    Raises TrainingError when the disk holds something else.
    """
    directory = shards[0][0].path.parent
    if read_model(directory) != {tensor.name: tensor for tensor in chain(*shards)}:
        raise TrainingError(f"{directory}: the written headers differ from the plan: report this")
    for shard in shards:
        path, expected = shard[0].path, shard[-1].start + shard[-1].size
        if path.stat().st_size != expected:
            raise TrainingError(f"{path.name} is not {expected} bytes long: is the disk full?")
        if path.name not in sums:
            raise TrainingError(f"{path.name} was written without a sum: report this")
