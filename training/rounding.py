"""A weight plus its low-rank changes: summed in fp64, rounded once, the loss measured."""

import math
import threading
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from training.errors import TrainingError
from training.safetensors_stream import (
    FLOAT_SIZES,
    TORCH_NAMES,
    StoredTensor,
    as_floats,
    read_bytes,
)

if TYPE_CHECKING:
    import torch

CHUNK_ELEMENTS = 1 << 18  # the fastest of 2^15 to 2^19: buffers in cache, calls worth making
BELOW_FLOAT32 = (1 << 29) - 1  # the bits of an fp64 mantissa that fp32 does not have


@dataclass
class Tally:
    """What merging did to the low-rank changed weights, added up over their elements."""

    elements: int = 0
    change_squares: float = 0.0
    lost_squares: float = 0.0
    differs: bool = False

    def add(self, other: "Tally") -> None:
        """Take in what was counted elsewhere."""
        self.elements += other.elements
        self.change_squares += other.change_squares
        self.lost_squares += other.lost_squares
        self.differs |= other.differs

    @property
    def mean_change(self) -> float:
        """Root of the mean square of the change."""
        return math.sqrt(self.change_squares / self.elements) if self.elements else 0.0

    @property
    def lost_share(self) -> float:
        """Norm of (rounded result - exact result), as a share of the norm of the change."""
        if not self.change_squares:
            return 0.0
        return math.sqrt(self.lost_squares / self.change_squares)


@dataclass(frozen=True)
class Change:
    """What is added to a weight [out, in], in fp64: left[out, R] @ right[R, in].

    With `magnitude` [out] every row of the sum is then brought to that length (DoRA, equation 5
    of arXiv:2402.09353).
    """

    left: "torch.Tensor"
    right: "torch.Tensor"
    magnitude: "torch.Tensor | None" = None

    @cached_property
    def gram(self) -> "torch.Tensor":
        """right @ right.T, by which squares of left @ right sum up without its elements."""
        return self.right @ self.right.T

    def add_to(self, weights: "torch.Tensor", rows: range, spare: "torch.Tensor") -> float:
        """Change those `rows` of the weight in place; return the sum of the change's squares.

        `weights` holds just them, in fp64; `spare` of the same shape is overwritten.
        """
        import torch

        left = self.left[rows.start : rows.stop]
        if self.magnitude is None:
            torch.addmm(weights, left, self.right, out=weights)
            return float((left.T @ left).mul_(self.gram).sum())
        spare.copy_(weights)
        torch.addmm(weights, left, self.right, out=weights)
        wanted = self.magnitude[rows.start : rows.stop]
        weights *= (wanted / torch.linalg.vector_norm(weights, dim=1)).unsqueeze(1)
        return float(spare.sub_(weights).square_().sum())


class Workspace(threading.local):
    """Buffers for one chunk, one set a thread: new pages for every chunk would cost as much."""

    def __init__(self, elements: int) -> None:
        import torch

        self.doubles = torch.empty(2, elements, dtype=torch.float64)
        self.singles = torch.empty(2, elements)


def copy_chunk(source: StoredTensor, dtype: str, first: int, count: int) -> bytearray:
    """Return `count` elements from `first` on of an unchanged weight, rounded to `dtype`.

    Elements of a dtype that is not in FLOAT_SIZES are bytes here, and copied as they are.

    Raises:
        TrainingError: the weight or the result holds NaN or Inf.
    """
    size = FLOAT_SIZES.get(source.dtype, 1)
    data = read_bytes(source, first * size, (first + count) * size)
    if source.dtype not in FLOAT_SIZES:
        return data
    values = as_floats(data, source.dtype)
    out, result = data, values
    if dtype != source.dtype:
        out, result = _empty(values.numel(), dtype)
        result.copy_(values)
    _check_finite(result, values, source, dtype)
    return out


def merge_chunk(
    source: StoredTensor, dtype: str, change: Change, rows: range, space: Workspace
) -> tuple[bytearray, Tally]:
    """Return those `rows` of the changed weight, rounded once to `dtype`.

    `space` must have room for their elements.

    Raises:
        TrainingError: the weight or the result holds NaN or Inf.
    """
    import torch

    columns = source.shape[1]
    row = columns * FLOAT_SIZES[source.dtype]
    stored = as_floats(read_bytes(source, rows.start * row, rows.stop * row), source.dtype)
    total, odd = space.doubles[:, : stored.numel()]
    near, spare = space.singles[:, : stored.numel()]
    total.copy_(spare.copy_(stored))  # by way of fp32: torch has no fast way from fp16 to fp64
    squares = change.add_to(total.view(-1, columns), rows, odd.view(-1, columns))
    near.copy_(total if dtype == "F32" else round_to_odd(total, out=odd))
    out, result = _empty(total.numel(), dtype)
    result.copy_(near)
    lost = spare.copy_(result).sub_(near)  # in fp32; what fp32 itself loses counts as nothing
    differs = not torch.equal(result, stored.to(result.dtype))
    tally = Tally(stored.numel(), squares, lost.dot(lost).item(), differs)
    if not math.isfinite(tally.lost_squares):  # as it is for any NaN or Inf in the result
        _check_finite(result, stored, source, dtype)
    return out, tally


def round_to_odd(exact: "torch.Tensor", out: "torch.Tensor") -> "torch.Tensor":
    """Cut fp64 down to the precision of fp32, what is cut off setting the last bit that stays.

    torch goes from fp64 to fp16 and bf16 by way of fp32: it rounds twice and misses the nearest
    in 6 of 100,000 fp16 values. From this cut the second rounding is right, as it leaves two bits
    and more to spare (Boldo and Melquiond, "Emulation of FMA and correctly rounded sums", 2008).
    """
    import torch

    bits, odd = exact.view(torch.int64), out.view(torch.int64)
    torch.bitwise_and(bits, BELOW_FLOAT32, out=odd)
    odd.add_(BELOW_FLOAT32).bitwise_or_(bits).bitwise_and_(~BELOW_FLOAT32)
    return out


def _empty(count: int, dtype: str) -> "tuple[bytearray, torch.Tensor]":
    data = bytearray(count * FLOAT_SIZES[dtype])
    return data, as_floats(data, dtype)


def _check_finite(
    result: "torch.Tensor", weight: "torch.Tensor", source: StoredTensor, dtype: str
) -> None:
    if _finite(result):
        return
    if not _finite(weight):
        raise TrainingError(
            f"{source.path}: {source.name} holds NaN or Inf: download or train it again"
        )
    raise TrainingError(
        f"{source.name} overflows {TORCH_NAMES[dtype]}: merge with --dtype bfloat16 or float32"
    )


def _finite(values: "torch.Tensor") -> bool:
    low, high = values.aminmax()  # NaN propagates; many times faster than isfinite().all()
    return math.isfinite(low.item()) and math.isfinite(high.item())
