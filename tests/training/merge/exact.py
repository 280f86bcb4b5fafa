"""Merged weights computed directly in fp64, and rounded once by comparing with neighbours."""

from collections.abc import Sequence
from pathlib import Path

import torch

from tests.models import weights

Tensors = dict[str, torch.Tensor]


def merged_exactly(base: Path, adapters: Sequence[Path], scale: float) -> Tensors:
    """Return base + Σ scale · B @ A in fp64, for adapters that hold pairs of linear layers only."""
    result = {name: values.double() for name, values in weights(base).items()}
    for adapter in adapters:
        lora = {name: values.double() for name, values in weights(adapter).items()}
        for key in (key for key in lora if ".lora_A." in key):
            name = key.removeprefix("base_model.model.").replace(".lora_A.", ".")
            result[name] += scale * lora[key.replace(".lora_A.", ".lora_B.")] @ lora[key]
    return result


def nearest(exact: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Round fp64 to the nearest value of `dtype`, ties to the even mantissa."""
    guess = exact.to(dtype)  # may be off by one: torch rounds twice, by way of fp32
    up, down = (torch.full_like(guess, bound) for bound in (float("inf"), float("-inf")))
    best = guess
    for other in (guess.nextafter(up), guess.nextafter(down)):
        closer = (other.double() - exact).abs() - (best.double() - exact).abs()
        integers = other.view(torch.int16 if other.element_size() == 2 else torch.int32)
        best = torch.where((closer < 0) | ((closer == 0) & (integers % 2 == 0)), other, best)
    return best
