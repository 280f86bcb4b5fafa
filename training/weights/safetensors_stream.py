"""Safetensors files read in chunks by plain reads.

Memory-mapped pages would count as the process's memory; a plain read holds one chunk.
Format: 8 bytes little-endian header length, the JSON header, then the tensors' bytes.
"""

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.errors import TrainingError

Bytes = NDArray[np.uint8]

FLOAT_SIZES = {"F16": 2, "BF16": 2, "F32": 4}
QUANTISED_SIZES = {"I8": 1, "F8_E4M3": 1}
TORCH_NAMES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32"}
BITS = {"F16": np.uint16, "BF16": np.int16, "F32": np.float32}
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


Tensors = Mapping[str, StoredTensor]  # by name


def read_header(path: Path) -> Tensors:
    """Return the tensors of one file by name, in the order of their bytes.

    Raises TrainingError when the file is missing, cut short, or not safetensors.
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


def read_floats(tensor: StoredTensor) -> NDArray[np.float32]:
    """Return the whole tensor, whose dtype must be one of FLOAT_SIZES, as fp32."""
    return read_values(tensor, 0, prod(tensor.shape)).reshape(tensor.shape)


def read_values(tensor: StoredTensor, first: int, count: int) -> NDArray[np.float32]:
    """Return at most `count` elements from `first` on, of a dtype of FLOAT_SIZES, as fp32."""
    size = FLOAT_SIZES[tensor.dtype]
    bits = as_bits(read_bytes(tensor, first * size, (first + count) * size), tensor.dtype)
    if tensor.dtype == "BF16":
        return (bits.astype(np.uint32) << 16).view(np.float32)
    return bits.view(np.float16).astype(np.float32) if tensor.dtype == "F16" else bits


def read_bytes(tensor: StoredTensor, start: int = 0, stop: int | None = None) -> Bytes:
    """Return the tensor's bytes from `start` to `stop` (its end), or to its end if that is nearer.

    Raises TrainingError when the file became shorter than its header said.
    """
    stop = tensor.size if stop is None else min(stop, tensor.size)
    data, filled = np.empty(stop - start, np.uint8), 0
    with tensor.path.open("rb", buffering=0) as file:
        file.seek(tensor.start + start)
        while filled < len(data):
            got = file.readinto(data[filled:].data)
            if not got:
                raise TrainingError(f"{tensor.path} became shorter while it was read")
            filled += got
    return data


def as_bits(data: Bytes, dtype: str) -> NDArray[Any]:
    """Return `data` as a flat array that shares its memory, typed as kernels.py expects it."""
    return data.view(BITS[dtype])
