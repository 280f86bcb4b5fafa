"""Safetensors files read in chunks by plain reads.

Memory-mapped pages would count as the process's memory; a plain read holds one chunk.
Format: 8 bytes little-endian header length, the JSON header, then the tensors' bytes.
"""

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from training.errors import TrainingError
from training.files import read_json

if TYPE_CHECKING:
    import torch

FLOAT_SIZES = {"F16": 2, "BF16": 2, "F32": 4}
TORCH_NAMES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32"}
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"


@dataclass(frozen=True)
class StoredTensor:
    """One tensor in a file: `size` bytes from byte `start` of `path`, row-major.

    `dtype` is the format's own code, such as F16.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    start: int
    size: int


def read_header(path: Path) -> dict[str, StoredTensor]:
    """Return the tensors of one file by name, in the order of their bytes.

    Raises:
        TrainingError: the file is missing, cut short, or not safetensors.
    """
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > path.stat().st_size:
                raise ValueError("the header is longer than the file")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        tensors = [_stored(path, name, entry, 8 + length) for name, entry in header.items()]
    except OSError as error:
        raise TrainingError(f"cannot read {path}: {error.strerror}") from error
    except (struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise TrainingError(f"{path} is not a whole safetensors file: {error}") from error
    return {tensor.name: tensor for tensor in sorted(tensors, key=lambda each: each.start)}


def _stored(path: Path, name: str, entry: dict[str, list[int]], data: int) -> StoredTensor:
    start, stop = entry["data_offsets"]
    tensor = StoredTensor(
        name, str(entry["dtype"]), tuple(entry["shape"]), path, data + start, stop - start
    )
    if data + stop > path.stat().st_size:
        raise ValueError(f"the bytes of {name} lie beyond the end: download or copy it again")
    itemsize = FLOAT_SIZES.get(tensor.dtype)
    if itemsize and prod(tensor.shape) * itemsize != tensor.size:
        raise ValueError(f"shape and size of {name} do not agree")
    return tensor


def read_model(directory: Path) -> dict[str, StoredTensor]:
    """Return every tensor of a model directory by name, in the order of files and bytes.

    Raises:
        TrainingError: no safetensors there, a file is missing or damaged, or the index is wrong.
    """
    if (directory / INDEX).exists():
        tensors = _read_sharded(directory)
    elif (directory / SINGLE).exists():
        tensors = read_header(directory / SINGLE)
    else:
        raise TrainingError(_nothing_in(directory))
    if not tensors:
        raise TrainingError(f"{directory} holds safetensors without a single tensor")
    return tensors


def _nothing_in(directory: Path) -> str:
    if any(directory.glob("pytorch_model*")):
        return f"{directory} holds pytorch_model*.bin: convert it to safetensors first"
    return f"{directory} holds neither {SINGLE} nor {INDEX}: is it a model directory?"


def _read_sharded(directory: Path) -> dict[str, StoredTensor]:
    weight_map = read_json(directory / INDEX).get("weight_map")
    if not isinstance(weight_map, dict):
        raise TrainingError(f"{directory / INDEX} has no weight_map: download it again")
    tensors: dict[str, StoredTensor] = {}
    for file in sorted(set(weight_map.values())):
        header = read_header(directory / file)
        tensors |= {name: t for name, t in header.items() if weight_map.get(name) == file}
    missing = sorted(weight_map.keys() - tensors.keys())
    if missing:
        raise TrainingError(
            f"{directory / INDEX} names {missing[0]}, which {weight_map[missing[0]]} lacks"
            " (the shards belong to another index: download them again)"
        )
    return tensors


def read_tensor(tensor: StoredTensor) -> "torch.Tensor":
    """Return the whole tensor in its stored dtype, which must be one of FLOAT_SIZES."""
    return as_floats(next(read_chunks(tensor, tensor.size)), tensor.dtype).view(tensor.shape)


def read_chunks(tensor: StoredTensor, size: int) -> Iterator[bytearray]:
    """Yield the tensor's bytes in pieces of `size` bytes, the last one shorter."""
    with tensor.path.open("rb", buffering=0) as file:
        file.seek(tensor.start)
        for done in range(0, tensor.size, size):
            chunk = bytearray(min(size, tensor.size - done))
            view, filled = memoryview(chunk), 0
            while filled < len(chunk):
                got = file.readinto(view[filled:])
                if not got:
                    raise TrainingError(f"{tensor.path} became shorter while it was read")
                filled += got
            yield chunk


def as_floats(data: bytearray, dtype: str) -> "torch.Tensor":
    """Return `data` as a flat tensor of the coded dtype that shares its memory."""
    import torch

    return torch.frombuffer(data, dtype=getattr(torch, TORCH_NAMES[dtype]))
