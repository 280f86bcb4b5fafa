"""A linear layer's weights to int4, each column making up for what those before it lost.

GPTQ (Frantar et al., arXiv:2210.17323): with H the sum of the outer products of a layer's inputs,
rounding moves its outputs by tr(E H Eᵀ), E being what it does to the weights. Columns are rounded
one by one, and what each loses is taken out of those that are still to come. Columns with
the largest inputs go first; groups of columns that share a scale stay as they lie in the file.
"""

import math
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from training.errors import TrainingError

LOWEST, HIGHEST = -8, 7
BLOCK = 128
"""Columns whose errors are carried over to all others in one product of matrices."""
DAMPING = (0.01, 0.1, 1.0)
"""Added to H's diagonal, as a share of its mean, until H can be factorised."""
ROWS = 32
"""Whose scales are searched at once: they stay in the processor's cache."""
STEPS = 20
"""How many scales of a group are tried, from its whole range down to half of it."""


@dataclass
class Inputs:
    """What a layer was given: the sum of the outer products of its inputs [in, in], in fp32."""

    total: Tensor

    @classmethod
    def of(cls, size: int, device: torch.device) -> Self:
        """None yet."""
        return cls(torch.zeros(size, size, device=device))

    def add(self, inputs: Tensor) -> None:
        """Take in inputs [..., in]."""
        rows = inputs.reshape(-1, inputs.shape[-1])
        self.total.addmm_(rows.T, rows)


@dataclass(frozen=True)
class Rounded:
    """A layer in int4: codes int8 [out, in] of LOWEST to HIGHEST, scales fp32 [out, in / group].

    The errors are shares: of the weights' norm, of that of the layer's outputs on the calibration
    data, and what the latter would be without GPTQ, each weight rounded to its nearest.
    """

    codes: Tensor
    scales: Tensor
    weights_error: float
    outputs_error: float
    nearest_error: float

    @property
    def errors(self) -> dict[str, float]:
        """By name, for provenance.json."""
        shares = self.weights_error, self.outputs_error, self.nearest_error
        return dict(zip(("weights", "outputs", "outputs_if_nearest"), shares, strict=True))

    @property
    def weight(self) -> Tensor:
        """What codes and scales stand for [out, in], in fp32."""
        return dequantised(self.codes, self.scales)


def quantise(weight: Tensor, inputs: Inputs, group: int) -> Rounded:
    """Round `weight` [out, in], in fp32, for these inputs; each `group` columns have a scale.

    Raises TrainingError where the inputs are not finite.
    """
    scales = best_scales(weight, inputs.total.diagonal(), group)
    codes = _round_in_turn(weight, inputs.total, scales)
    lost = dequantised(codes, scales) - weight
    nearest = dequantised(_nearest(weight, _by_column(scales, group)), scales) - weight
    size = _moved(weight, inputs.total)
    return Rounded(
        codes,
        scales,
        _share(float(lost.square().sum()), float(weight.square().sum())),
        _share(_moved(lost, inputs.total), size),
        _share(_moved(nearest, inputs.total), size),
    )


def dequantised(codes: Tensor, scales: Tensor) -> Tensor:
    """Values [out, in] of codes [out, in] under scales [out, in / group], in fp32."""
    return codes * _by_column(scales, codes.shape[1] // scales.shape[1])


def best_scales(weight: Tensor, importance: Tensor, group: int) -> Tensor:
    """The scale [out, in / group] of each group that loses least when all are rounded to nearest.

    What a column loses counts by its `importance` [in].
    """
    counts = importance.reshape(-1, group)
    by_group = weight.view(len(weight), -1, group)
    few = (by_group[first : first + ROWS] for first in range(0, len(weight), ROWS))
    return torch.cat([_best_scales(groups, counts) for groups in few])


def _best_scales(groups: Tensor, counts: Tensor) -> Tensor:
    whole = groups.abs().amax(dim=2) / HIGHEST
    chosen, least = whole, torch.full_like(whole, math.inf)
    for step in range(STEPS):
        scales = as_stored(whole * (1 - 0.5 * step / STEPS))
        lost = _nearest(groups, scales[..., None]).mul_(scales[..., None]).sub_(groups)
        missed = lost.square_().mul_(counts).sum(dim=2)
        chosen = torch.where(missed < least, scales, chosen)
        least = torch.minimum(missed, least)
    return chosen


def as_stored(scales: Tensor) -> Tensor:
    """The nearest scales above 0 that bf16 and fp16 both hold, whichever it is served in."""
    return scales.bfloat16().half().float().clamp(min=2.0**-24)


def _round_in_turn(weight: Tensor, total: Tensor, scales: Tensor) -> Tensor:
    """GPTQ itself: codes int8 [out, in]."""
    order = total.diagonal().argsort(descending=True, stable=True)
    factor = _factor(total[order[:, None], order])
    # columns as rows, which lie together in memory
    rest = weight.T[order].contiguous()
    by_column = _by_column(scales, weight.shape[1] // scales.shape[1]).T[order].contiguous()
    codes = torch.empty_like(rest)
    for start in range(0, len(rest), BLOCK):
        block = slice(start, start + BLOCK)
        missed = _round_block(rest[block], by_column[block], factor[block, block], codes[block])
        rest[start + BLOCK :] -= factor[block, start + BLOCK :].T @ missed
    result = torch.empty_like(codes, dtype=torch.int8)
    result[order] = codes.to(torch.int8)
    return result.T.contiguous()


def _round_block(rest: Tensor, scales: Tensor, factor: Tensor, codes: Tensor) -> Tensor:
    """Round columns [some, out] into `codes`; return what each lost, by its place in `factor`."""
    missed = torch.empty_like(rest)
    for column in range(len(rest)):
        codes[column] = _nearest(rest[column], scales[column])
        lost = rest[column] - codes[column] * scales[column]
        missed[column] = lost / factor[column, column]
        rest[column + 1 :] -= torch.outer(factor[column, column + 1 :], missed[column])
    return missed


def _factor(total: Tensor) -> Tensor:
    """The upper triangular U with UᵀU the inverse of `total`, damped; fp32, computed in fp64.

    That of the matrix with its rows and columns reversed is lower triangular: the inverse of its
    root. Two of them are in memory: the largest there is, of a layer with many inputs.
    """
    diagonal = total.diagonal().double().flip(0)
    mean = float(diagonal.mean())
    if not 0 < mean < math.inf:
        raise TrainingError("its inputs are all 0 or not finite: does the model answer at all?")
    unused = diagonal == 0  # inputs that never were anything but 0
    for share in DAMPING:
        root = total.flip(0, 1).double()
        root.diagonal().add_(unused + share * mean)
        failed = torch.empty((), dtype=torch.int32, device=total.device)
        torch.linalg.cholesky_ex(root, out=(root, failed))
        if not failed:
            inverse = torch.eye(len(total), dtype=root.dtype, device=root.device)
            torch.linalg.solve_triangular(root, inverse, upper=False, out=inverse)
            return inverse.float().flip(0, 1)
    raise TrainingError("its inputs cannot be told apart: calibrate on more samples")


def _nearest(values: Tensor, scales: Tensor) -> Tensor:
    """Codes as floats, ties to even."""
    steps = torch.div(values, scales)
    return steps.round_().clamp_(LOWEST, HIGHEST)


def _by_column(scales: Tensor, group: int) -> Tensor:
    return scales.repeat_interleave(group, dim=1)


def _moved(change: Tensor, total: Tensor) -> float:
    """By how much outputs move when weights do by `change`: the sum of the squares."""
    return float(((change @ total) * change).sum())


def _share(missed: float, whole: float) -> float:
    return math.sqrt(max(missed, 0.0) / whole) if whole else 0.0
