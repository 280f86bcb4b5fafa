"""The inner loops of quantising, compiled by numba as those of merging are."""

from collections.abc import Callable
from typing import Any

import numpy as np

from training.weights.kernels import compiled

NO_SCALE = float(np.finfo(np.float32).eps)
"""Of a row of zeros: a scale of 0 would make NaN of it."""
Nearest = Callable[[float, float], Any]
"""Of a value in steps of its scale, and the largest: the nearest of the format, and its byte."""


@compiled
def _int8(value: float, largest: float) -> Any:
    nearest = min(max(np.rint(value), -largest), largest)
    return nearest, np.uint8(np.int64(nearest) & 255)


@compiled
def _fp8(value: float, largest: float) -> Any:
    size = np.float64(min(abs(value), largest))
    exponent: Any = max((size.view(np.int64) >> 52) - 1023, -6)
    step = np.int64((exponent + 1020) << 52).view(np.float64)  # an eighth of 2**exponent
    count = np.int64(np.rint(size / step))  # 16 is 8 of the next exponent
    nearest = min(count * step, largest)
    code = min(((exponent + 6) << 3) + count, np.int64(126))
    if value < 0:
        return -nearest, np.uint8(code | 128)
    return nearest, np.uint8(code)


def _missed_by(nearest: Nearest) -> Callable[[Any, float, float], float]:
    """Of a row under a scale: the sum of the squares of what is lost."""

    @compiled
    def missed_by(row: Any, scale: float, largest: float) -> float:
        missed = 0.0
        for j in range(len(row)):
            missed += (nearest(row[j] / scale, largest)[0] * scale - row[j]) ** 2
        return missed

    return missed_by


@compiled
def _whole_scale(row: Any, largest: float) -> Any:
    """The one under which the row's largest value is the format's."""
    peak = 0.0
    for j in range(len(row)):
        peak = max(peak, abs(row[j]))
    return np.float32(peak / largest)


def _best_scale(nearest: Nearest) -> Callable[[Any, float, int], Any]:
    """The whole one, or of that many smaller ones the one that loses least."""
    missed_by = _missed_by(nearest)

    @compiled
    def best_scale(row: Any, largest: float, steps: int) -> Any:
        whole = _whole_scale(row, largest)
        if whole == 0.0:
            return np.float32(NO_SCALE)
        if steps == 1:
            return whole
        chosen, least = whole, np.inf
        for step in range(steps):
            scale = np.float32(whole * np.float32(1.0 - step / 100.0))
            missed = missed_by(row, np.float64(scale), largest)
            if missed < least:
                chosen, least = scale, missed
        return chosen

    return best_scale


def _rows(nearest: Nearest) -> Callable[..., tuple[float, float]]:
    """Quantise rows [rows, in] of fp64 into codes [rows, in] and scales [rows].

    Returns the sums of the squares of the weights and of what was lost.
    """
    best_scale = _best_scale(nearest)

    @compiled
    def quantise(
        exact: Any, largest: float, steps: int, codes: Any, scales: Any
    ) -> tuple[float, float]:
        weights, missed = 0.0, 0.0
        for i in range(len(exact)):
            row = exact[i]
            scales[i] = best_scale(row, largest, steps)
            scale = np.float64(scales[i])
            for j in range(len(row)):
                value, codes[i, j] = nearest(row[j] / scale, largest)
                weights += row[j] * row[j]
                missed += (value * scale - row[j]) ** 2
        return weights, missed

    return quantise


to_int8 = _rows(_int8)
to_fp8 = _rows(_fp8)
