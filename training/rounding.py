"""A weight plus its low-rank changes: summed in fp64, rounded once, the loss measured."""

import math
from dataclasses import dataclass
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

CHUNK_ELEMENTS = 1 << 17  # in fp64 a few such buffers stay in a core's cache
BELOW_FLOAT32 = (1 << 29) - 1  # the bits of an fp64 mantissa that fp32 does not have


@dataclass
class Tally:
    """What merging did to the low-rank changed weights, added up over their elements."""

    max_delta: float = 0.0
    delta_squares: float = 0.0
    lost_squares: float = 0.0
    differs: bool = False

    def add(self, other: "Tally") -> None:
        """Take in what was counted elsewhere."""
        self.max_delta = max(self.max_delta, other.max_delta)
        self.delta_squares += other.delta_squares
        self.lost_squares += other.lost_squares
        self.differs |= other.differs

    @property
    def lost_share(self) -> float:
        """Norm of (rounded result - exact result), as a share of the norm of the change."""
        if not self.delta_squares:
            return 0.0
        return math.sqrt(self.lost_squares / self.delta_squares)


@dataclass(frozen=True)
class Change:
    """What is added to a weight [out, in], in fp64: left[out, R] @ right[R, in].

    With `magnitude` [out] every row of the sum is then brought to that length (DoRA, equation 5
    of arXiv:2402.09353).
    """

    left: "torch.Tensor"
    right: "torch.Tensor"
    magnitude: "torch.Tensor | None" = None


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
    source: StoredTensor, dtype: str, change: Change, first: int, count: int
) -> tuple[bytearray, Tally]:
    """Return `count` rows from `first` on of the changed weight, rounded once to `dtype`.

    Raises:
        TrainingError: the weight or the result holds NaN or Inf.
    """
    import torch

    row = source.shape[1] * FLOAT_SIZES[source.dtype]
    stored = as_floats(read_bytes(source, first * row, (first + count) * row), source.dtype)
    weight = stored.float().double().view(-1, source.shape[1])  # two steps: both are vectorised
    delta = change.left[first : first + count] @ change.right
    total = weight + delta
    if change.magnitude is not None:
        wanted = change.magnitude[first : first + count]
        total *= (wanted / torch.linalg.vector_norm(total, dim=1)).unsqueeze(1)
        delta = total - weight
    out, result = _empty(total.numel(), dtype)
    round_once(total.view(-1), result)
    _check_finite(result, stored, source, dtype)
    differs = not torch.equal(result, stored.to(result.dtype))
    return out, _tally(delta.view(-1), total.view(-1), result, differs)


def round_once(exact: "torch.Tensor", result: "torch.Tensor") -> None:
    """Round flat fp64 values to the dtype of `result`, each to its nearest.

    torch goes from fp64 to fp16 and bf16 by way of fp32, so it rounds twice and misses the
    nearest in 6 of 100,000 fp16 values. Rounding to odd on the first step (what is cut off sets
    the last bit that stays) makes the second one right, as fp32 has more than two bits to spare.
    """
    import torch

    if result.dtype == torch.float32:
        result.copy_(exact)
        return
    bits = exact.view(torch.int64)
    odd = (bits & BELOW_FLOAT32).add_(BELOW_FLOAT32).bitwise_or_(bits).bitwise_and_(~BELOW_FLOAT32)
    result.copy_(odd.view(torch.float64).float())


def _tally(
    delta: "torch.Tensor", exact: "torch.Tensor", result: "torch.Tensor", differs: bool
) -> Tally:
    low, high = delta.aminmax()
    lost = result.float().double().sub_(exact)
    return Tally(
        max(-low.item(), high.item()), delta.dot(delta).item(), lost.dot(lost).item(), differs
    )


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
