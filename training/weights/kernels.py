"""The inner loops of merging, compiled by numba when first called and kept in its cache.

Weights come as their bits, so that a dtype numpy lacks has a type here: uint16 arrays are fp16,
int16 arrays bf16, float32 arrays fp32. Sums are fp64 and are rounded once (to bf16 below 2**-126,
which only fp32's subnormals reach, twice). The loops run outside the interpreter's lock.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic, overload

Function = TypeVar("Function", bound=Callable[..., Any])

BLOCK = 1024  # columns at a time: four fp64 rows of sums and of the right factor stay in L1
ROWS = 4  # summed together, so that what is loaded of the right factor serves them all
RANKS = 4  # added together, so that a sum is loaded and stored once for them all
BELOW_FP32 = np.int64((1 << 29) - 1)  # the bits of an fp64's fraction that an fp32 has not


def compiled(function: Function) -> Function:
    """Compile a loop when it is first called; it runs outside the interpreter's lock."""
    # the two liberties a vectorised sum needs; NaN and Inf must survive, so no more of fastmath
    options = {"nogil": True, "fastmath": {"reassoc", "contract"}}
    made: Function
    try:
        made = njit(cache=True, **options)(function)
    except RuntimeError:  # no folder for the cache can be written: compile in every run
        made = njit(**options)(function)
    return made


@intrinsic
def _from_half(context: Any, bits: Any) -> Any:
    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fpext(builder.bitcast(args[0], ir.HalfType()), ir.FloatType())

    return types.float32(types.uint16), emit


@intrinsic
def _to_half(context: Any, value: Any) -> Any:
    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(builder.fptrunc(args[0], ir.HalfType()), ir.IntType(16))

    return types.uint16(types.float32), emit


@compiled
def _to_odd(value: float) -> Any:
    """Round fp64 to fp32 so that a second rounding, to 16 bits, gives what a single one would give.

    "Round to odd": the last bit marks that something was cut off, which keeps the value from
    looking like one half-way between two of 16 bits.
    """
    bits = np.float64(value).view(np.int64)
    cut = ((bits & BELOW_FP32) + BELOW_FP32) & (BELOW_FP32 + 1)
    return np.float32(np.int64((bits & ~BELOW_FP32) | cut).view(np.float64))


def _widen(stored: Any) -> Any:
    """Return a stored element as fp32, exactly."""
    raise NotImplementedError("compiled code only")


@overload(_widen, strict=False)
def _widen_by_type(stored: Any) -> Any:
    if stored == types.uint16:
        return lambda stored: _from_half(stored)
    if stored == types.int16:
        return lambda stored: np.int32(np.int32(stored) << np.int32(16)).view(np.float32)
    return lambda stored: stored


def _nearest(value: Any, like: Any) -> Any:
    """Return the element of the type of `like` nearest to an fp64, ties to even."""
    raise NotImplementedError("compiled code only")


@overload(_nearest, strict=False)
def _nearest_by_type(value: Any, like: Any) -> Any:
    if like == types.uint16:
        return lambda value, like: _to_half(_to_odd(value))
    if like == types.int16:
        return lambda value, like: _to_bf16(_to_odd(value))
    if like == types.float64:  # the sum itself
        return lambda value, like: value
    return lambda value, like: np.float32(value)


@compiled
def _to_bf16(value: Any) -> Any:
    bits = np.float32(value).view(np.int32)
    even = np.int32((bits >> np.int32(16)) & np.int32(1))
    return np.int16((bits + np.int32(0x7FFF) + even) >> np.int32(16))


def _recast(weight: Any, stored: Any, like: Any) -> Any:
    """Return a weight, not changed, in the type of `like`: `stored` itself if that is its type."""
    raise NotImplementedError("compiled code only")


@overload(_recast, strict=False)
def _recast_by_type(weight: Any, stored: Any, like: Any) -> Any:
    if stored == like:
        return lambda weight, stored, like: stored
    return lambda weight, stored, like: _nearest(np.float64(weight), like)


@compiled
def _four(matrix: Any, row: int, first: int, last: int) -> Any:
    return (
        matrix[row, first:last],
        matrix[row + 1, first:last],
        matrix[row + 2, first:last],
        matrix[row + 3, first:last],
    )


@compiled
def _add_ranks(sums: Any, left: Any, right: Any) -> None:
    """Add left[4, 4] @ right[4, n] to sums[4, n]; sums and right as tuples of their rows."""
    s0, s1, s2, s3 = sums
    r0, r1, r2, r3 = right
    a0, a1, a2, a3 = left[0, 0], left[0, 1], left[0, 2], left[0, 3]
    b0, b1, b2, b3 = left[1, 0], left[1, 1], left[1, 2], left[1, 3]
    c0, c1, c2, c3 = left[2, 0], left[2, 1], left[2, 2], left[2, 3]
    d0, d1, d2, d3 = left[3, 0], left[3, 1], left[3, 2], left[3, 3]
    for j in range(len(s0)):
        x0, x1, x2, x3 = r0[j], r1[j], r2[j], r3[j]
        s0[j] += a0 * x0 + a1 * x1 + a2 * x2 + a3 * x3
        s1[j] += b0 * x0 + b1 * x1 + b2 * x2 + b3 * x3
        s2[j] += c0 * x0 + c1 * x1 + c2 * x2 + c3 * x3
        s3[j] += d0 * x0 + d1 * x1 + d2 * x2 + d3 * x3


@compiled
def _product(sums: Any, left: Any, right: Any, first: int, last: int) -> None:
    """Put columns `first` to `last` of left[4, R] @ right[R, in] into sums[4, BLOCK]."""
    sums[:] = 0.0
    for k in range(0, len(right), RANKS):
        rows = _four(sums, 0, 0, last - first)
        _add_ranks(rows, left[:, k : k + RANKS], _four(right, k, first, last))


@compiled
def _round(sums: Any, scale: float, stored: Any, out: Any) -> Any:
    """Write (stored + sums) * scale, elements of one row, to `out`; return what `add` does."""
    change, lost, differs = 0.0, np.float32(0.0), False
    for j in range(len(sums)):
        weight = _widen(stored[j])
        total = (np.float64(weight) + sums[j]) * scale
        nearest = _nearest(total, out[j])
        differs |= nearest != _recast(weight, stored[j], nearest)
        out[j] = nearest
        moved = total - np.float64(weight)
        missed = _widen(nearest) - np.float32(total)  # what fp32 itself loses counts as nothing
        change += moved * moved
        lost += missed * missed
    return change, np.float64(lost), differs


@compiled
def add(stored: Any, left: Any, right: Any, scale: Any, out: Any) -> tuple[float, float, bool]:
    """Write (stored + left @ right) * scale, rounded once, to `out`.

    `stored` and `out` are bits [rows, in], `scale` is fp64 [rows], the factors are fp64:
    left[rows or more, R], its row count and R padded with zeros to multiples of ROWS and RANKS,
    right[R, in]. Returns the sum of the squares of the change, that of what rounding lost of it,
    and whether any element differs from the stored one. The sums are not finite if any result is
    not.
    """
    rows, columns = stored.shape
    sums = np.empty((ROWS, BLOCK))
    change, lost, differs = 0.0, 0.0, False
    for first in range(0, columns, BLOCK):
        last = min(first + BLOCK, columns)
        for row in range(0, rows, ROWS):
            _product(sums, left[row : row + ROWS], right, first, last)
            for i in range(row, min(row + ROWS, rows)):
                new, old = out[i, first:last], stored[i, first:last]
                moved, missed, other = _round(sums[i - row, : last - first], scale[i], old, new)
                change, lost, differs = change + moved, lost + missed, differs | other
    return change, lost, differs


@compiled
def squared_lengths(stored: Any, left: Any, right: Any) -> Any:
    """Return the sum of the squares of every row of stored + left @ right, fp64 [rows].

    The arguments are those of `add`.
    """
    rows, columns = stored.shape
    sums = np.empty((ROWS, BLOCK))
    lengths = np.zeros(rows)
    for first in range(0, columns, BLOCK):
        last = min(first + BLOCK, columns)
        for row in range(0, rows, ROWS):
            _product(sums, left[row : row + ROWS], right, first, last)
            for i in range(row, min(row + ROWS, rows)):
                for j in range(last - first):
                    lengths[i] += (np.float64(_widen(stored[i, first + j])) + sums[i - row, j]) ** 2
    return lengths


@compiled
def convert(stored: Any, out: Any) -> None:
    """Write the bits `stored`, flat, in the type of `out`, rounded once."""
    for j in range(len(stored)):
        out[j] = _nearest(np.float64(_widen(stored[j])), out[j])


@compiled
def finite(stored: Any) -> bool:
    """Return whether no element of the bits `stored`, flat, is NaN or Inf."""
    strange = False
    for j in range(len(stored)):
        strange |= not abs(_widen(stored[j])) < np.inf
    return not strange
