"""A weight plus its low-rank changes: summed in fp64, rounded once, the loss measured."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from training.errors import TrainingError
from training.weights import kernels
from training.weights.safetensors_stream import (
    FLOAT_SIZES,
    TORCH_NAMES,
    Bytes,
    StoredTensor,
    as_bits,
    read_bytes,
)

Doubles = NDArray[np.float64]

CHUNK_ELEMENTS = 1 << 19  # the fastest of 2^16 to 2^22


@dataclass
class Tally:
    """What merging did to the low-rank changed weights, added up over their elements."""

    elements: int = 0
    change_squares: float = 0.0
    lost_squares: float = 0.0
    differs: bool = False

    def add(self, other: Self) -> None:
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

    left: Doubles
    right: Doubles
    magnitude: Doubles | None = None

    @cached_property
    def padded(self) -> tuple[Doubles, Doubles]:
        """Both factors as the kernels take them: zeros added to whole blocks of rows and ranks."""
        more = -len(self.right) % kernels.RANKS
        left = np.pad(self.left, ((0, kernels.ROWS - 1), (0, more)))
        right = np.pad(self.right, ((0, more), (0, 0)))
        # an embedding's factors are transposes, whose rows the loops would have to gather
        return np.ascontiguousarray(left), np.ascontiguousarray(right)

    def add_to(
        self, stored: NDArray[Any], rows: range, out: NDArray[Any]
    ) -> tuple[float, float, bool]:
        """Write those `rows` of the weight, of which `stored` holds the bits, changed, to `out`.

        Returns what kernels.add does.
        """
        left, right = self.padded
        left = left[rows.start : rows.stop + kernels.ROWS - 1]
        scale = np.ones(len(rows))
        if self.magnitude is not None:
            lengths = np.sqrt(kernels.squared_lengths(stored, left, right))
            scale = self.magnitude[rows.start : rows.stop] / lengths
        return kernels.add(stored, left, right, scale, out)


def copy_chunk(source: StoredTensor, dtype: str, first: int, count: int) -> Bytes:
    """Return `count` elements from `first` on of an unchanged weight, rounded to `dtype`.

    Elements of a dtype that is not in FLOAT_SIZES are bytes here, and copied as they are.
    Raises TrainingError when the weight or the result holds NaN or Inf.
    """
    size = FLOAT_SIZES.get(source.dtype, 1)
    data = read_bytes(source, first * size, (first + count) * size)
    if source.dtype not in FLOAT_SIZES:
        return data
    stored, out = as_bits(data, source.dtype), data
    if dtype != source.dtype:
        out = np.empty(len(stored) * FLOAT_SIZES[dtype], np.uint8)
        kernels.convert(stored, as_bits(out, dtype))
    if not kernels.finite(as_bits(out, dtype)):
        raise _not_finite(stored, source, dtype)
    return out


def rounded(source: StoredTensor, dtype: str) -> NDArray[Any]:
    """Return the bits [rows, columns] of the whole tensor, rounded to `dtype`.

    Raises TrainingError as copy_chunk does.
    """
    data = copy_chunk(source, dtype, 0, math.prod(source.shape))
    return as_bits(data, dtype).reshape(source.shape)


def merge_chunk(
    source: StoredTensor, dtype: str, change: Change, rows: range
) -> tuple[Bytes, Tally]:
    """Return those `rows` of the changed weight, rounded once to `dtype`.

    Raises TrainingError when the weight or the result holds NaN or Inf.
    """
    columns = math.prod(source.shape[1:])
    row = columns * FLOAT_SIZES[source.dtype]
    stored = as_bits(read_bytes(source, rows.start * row, rows.stop * row), source.dtype)
    out = np.empty(len(stored) * FLOAT_SIZES[dtype], np.uint8)
    result = as_bits(out, dtype).reshape(-1, columns)
    squares, lost, differs = change.add_to(stored.reshape(-1, columns), rows, result)
    # the first is free but sees more than there is: squares overflow sooner than values
    if not math.isfinite(lost) and not kernels.finite(as_bits(out, dtype)):
        raise _not_finite(stored, source, dtype)
    return out, Tally(len(stored), squares, lost, differs)


def exact_rows(source: StoredTensor, change: Change | None, rows: range) -> Doubles:
    """Return those `rows` [rows, in] of the weight, changed, in fp64: the sum itself."""
    columns = math.prod(source.shape[1:])
    row = columns * FLOAT_SIZES[source.dtype]
    stored = as_bits(read_bytes(source, rows.start * row, rows.stop * row), source.dtype)
    exact = np.empty(len(stored))
    if change is None:
        kernels.convert(stored, exact)
    else:
        change.add_to(stored.reshape(-1, columns), rows, exact.reshape(-1, columns))
    return exact.reshape(-1, columns)


def _not_finite(weight: NDArray[Any], source: StoredTensor, dtype: str) -> TrainingError:
    if kernels.finite(weight):
        return TrainingError(
            f"{source.name} overflows {TORCH_NAMES[dtype]}: merge with --dtype bfloat16 or float32"
        )
    return TrainingError(
        f"{source.path}: {source.name} holds NaN or Inf: download or train it again"
    )
