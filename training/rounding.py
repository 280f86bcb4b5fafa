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
# Zero in every fp32 value that lies half-way between two values of the dtype, and in few others.
BELOW_BORDER = {"F16": (1 << 12) - 1, "BF16": (1 << 15) - 1}


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
    total, other = space.doubles[:, : stored.numel()]
    near, spare = space.singles[:, : stored.numel()]
    total.copy_(spare.copy_(stored))  # by way of fp32: torch has no fast way from fp16 to fp64
    squares = change.add_to(total.view(-1, columns), rows, other.view(-1, columns))
    near.copy_(total)
    if dtype in BELOW_BORDER:
        leave_borders(near, total, BELOW_BORDER[dtype], spare)
    out, result = _empty(total.numel(), dtype)
    result.copy_(near)
    lost = spare.copy_(result).sub_(near)  # in fp32; what fp32 itself loses counts as nothing
    differs = not torch.equal(result, stored.to(result.dtype))
    tally = Tally(stored.numel(), squares, lost.dot(lost).item(), differs)
    if not math.isfinite(tally.lost_squares):  # as it is for any NaN or Inf in the result
        _check_finite(result, stored, source, dtype)
    return out, tally


def leave_borders(
    near: "torch.Tensor", exact: "torch.Tensor", below: int, spare: "torch.Tensor"
) -> None:
    """Move `near`, which is `exact` rounded to fp32, off the borders between 16-bit values.

    Rounding twice, fp64 to fp32 to 16 bits, misses the nearest value in 6 of 100,000 for fp16:
    where the first rounding ends on a border, the second no longer knows the side. One fp32 step
    towards `exact` tells it. `below` are the bits that are zero on a border; `spare`, like
    `near`, is overwritten.
    """
    import numpy as np

    # numpy's views: torch compares several times slower
    values = near.numpy()
    low = np.bitwise_and(values.view(np.int32), below, out=spare.numpy().view(np.int32))
    borders = np.flatnonzero(low == 0)
    with np.errstate(invalid="ignore"):  # infinite: it stays infinite in 16 bits
        off = exact.numpy()[borders] - values[borders]
    borders, off = borders[off != 0], off[off != 0]
    values[borders] = np.nextafter(values[borders], np.copysign(np.float32(np.inf), off, dtype="f"))


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
