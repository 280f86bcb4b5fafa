"""Adding a low-rank change to one weight: fp32 inside, rounded once, the loss measured."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from training.errors import TrainingError
from training.safetensors_stream import (
    FLOAT_SIZES,
    TORCH_NAMES,
    StoredTensor,
    as_floats,
    read_chunks,
)

if TYPE_CHECKING:
    import torch

CHUNK_ELEMENTS = 1 << 19  # a few such buffers stay in a core's cache


@dataclass
class Tally:
    """What merging did to the changed weights, added up over their elements."""

    changed: int = 0
    max_delta: float = 0.0
    delta_squares: float = 0.0
    lost_squares: float = 0.0

    def add(self, delta: "torch.Tensor", lost: "torch.Tensor") -> None:
        """Take in one chunk's change and the part of it that rounding lost, both flat fp32."""
        self.lost_squares += lost.dot(lost).item()
        self.delta_squares += delta.dot(delta).item()
        low, high = delta.aminmax()
        self.max_delta = max(self.max_delta, -low.item(), high.item())

    @property
    def lost_share(self) -> float:
        """Norm of (rounded result - exact result), as a share of the norm of the change."""
        if not self.delta_squares:
            return 0.0
        return math.sqrt(self.lost_squares / self.delta_squares)


def copy_chunks(source: StoredTensor, dtype: str) -> Iterator[bytearray]:
    """Yield the bytes of an untouched weight, cast to `dtype`, refusing NaN and Inf."""
    itemsize = FLOAT_SIZES.get(source.dtype, 1)
    for chunk in read_chunks(source, CHUNK_ELEMENTS * itemsize):
        if source.dtype not in FLOAT_SIZES:
            yield chunk
            continue
        values = as_floats(chunk, source.dtype)
        out, result = chunk, values
        if dtype != source.dtype:
            out, result = _empty(values.numel(), dtype)
            result.copy_(values)
        _check_finite(result, values, source, dtype)
        yield out


def merge_chunks(
    source: StoredTensor, dtype: str, b: "torch.Tensor", a: "torch.Tensor", tally: Tally
) -> Iterator[bytearray]:
    """Yield the bytes of W[out, in] + B[out, R] @ A[R, in], computed in fp32, rounded to `dtype`.

    Raises:
        TrainingError: the weight or the result holds NaN or Inf.
    """
    import torch

    columns = source.shape[1]
    rows = max(1, CHUNK_ELEMENTS // columns)
    work = torch.empty(3, rows * columns)  # reused: new pages for every chunk cost as much as sums
    changed = False
    chunks = read_chunks(source, rows * columns * FLOAT_SIZES[source.dtype])
    for number, chunk in enumerate(chunks):
        values = as_floats(chunk, source.dtype)
        weight, delta, total = work[:, : values.numel()]
        weight.copy_(values)
        torch.mm(b[number * rows : (number + 1) * rows], a, out=delta.view(-1, columns))
        out, result = _empty(values.numel(), dtype)
        result.copy_(torch.add(weight, delta, out=total))
        _check_finite(result, weight, source, dtype)
        changed = changed or bool((result != weight.to(result.dtype)).any())
        # in this order the subtraction is exact for |delta| < |weight|
        tally.add(delta, lost=total.copy_(result).sub_(weight).sub_(delta))
        yield out
    tally.changed += changed


def _empty(count: int, dtype: str) -> "tuple[bytearray, torch.Tensor]":
    data = bytearray(count * FLOAT_SIZES[dtype])
    return data, as_floats(data, dtype)


def _check_finite(
    result: "torch.Tensor", weight: "torch.Tensor", source: StoredTensor, dtype: str
) -> None:
    if _finite(result):
        return
    if not _finite(weight):
        raise TrainingError(f"{source.path}: {source.name} holds NaN or Inf: get the base again")
    raise TrainingError(
        f"{source.name} overflows {TORCH_NAMES[dtype]}: merge with --dtype bfloat16 or float32"
    )


def _finite(values: "torch.Tensor") -> bool:
    low, high = values.aminmax()  # NaN propagates; many times faster than isfinite().all()
    return math.isfinite(low.item()) and math.isfinite(high.item())
