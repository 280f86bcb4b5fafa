"""Rows of weights to 8 bits: each to the nearest of its scale's steps, from fp64 at once.

The format is compressed-tensors', which vLLM and transformers load: a scale for each output channel
(a row), symmetric, no zero point; activations are quantised for each token while the model runs.
"""

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from training.weights import quantising_kernels as kernels

Doubles = NDArray[np.float64]
REDUCED = 64.0
"""Largest int8 code where pairs of products are summed in 16 bits, as without VNNI: 2*255*64."""
STEPS = 20
"""How many scales the search of the clipping tries, from the whole range down to a fifth less."""


@dataclass(frozen=True)
class Scheme:
    """A format of 8 bits: its code in safetensors, and the largest value that it holds."""

    name: str
    dtype: str
    largest: float

    @property
    def config(self) -> dict[str, object]:
        """What config.json says of it, as compressed-tensors spells it."""
        kind = {"num_bits": 8, "type": "float" if self.name == "fp8" else "int", "symmetric": True}
        return {
            "quant_method": "compressed-tensors",
            "format": f"{'float' if self.name == 'fp8' else 'int'}-quantized",
            "quantization_status": "compressed",
            "kv_cache_scheme": None,
            **({"reduce_range": True} if self.largest == REDUCED else {}),
            "config_groups": {
                "group_0": {
                    "targets": ["Linear"],
                    "weights": {**kind, "strategy": "channel", "dynamic": False},
                    "input_activations": {**kind, "strategy": "token", "dynamic": True},
                }
            },
        }


SCHEMES = {
    scheme.name: scheme for scheme in (Scheme("int8", "I8", 127.0), Scheme("fp8", "F8_E4M3", 448.0))
}


@dataclass
class Error:
    """What quantising did to weights: sums of squares."""

    weights: float = 0.0
    missed: float = 0.0

    def add(self, other: Self) -> None:
        """Take in what was counted elsewhere."""
        self.weights += other.weights
        self.missed += other.missed

    @property
    def share(self) -> float:
        """Norm of (quantised - exact), as a share of the norm of the exact weights."""
        return math.sqrt(self.missed / self.weights) if self.weights else 0.0


@dataclass(frozen=True)
class Quantised:
    """Some rows: codes [rows, in] as bytes, scales fp32 [rows]."""

    codes: NDArray[np.uint8]
    scales: NDArray[np.float32]
    error: Error


def quantise(exact: Doubles, scheme: Scheme, *, clip: bool = False) -> Quantised:
    """Quantise the rows of `exact` [rows, in], which must be finite.

    A row's scale is its largest value by the largest that the format holds, in fp32; with `clip`
    the one of STEPS smaller ones with the smallest squared error. Codes are the nearest under the
    scale as it is stored, ties to even.
    """
    codes = np.empty(exact.shape, np.uint8)
    scales = np.empty(len(exact), np.float32)
    encode = kernels.to_fp8 if scheme.name == "fp8" else kernels.to_int8
    weights, missed = encode(exact, scheme.largest, STEPS if clip else 1, codes, scales)
    return Quantised(codes, scales, Error(weights, missed))


def dequantised(codes: NDArray[np.uint8], scales: NDArray[np.float32], scheme: Scheme) -> Doubles:
    """The values [rows, in] that codes [rows, in] stand for under scales [rows]."""
    values = codes.view(np.int8).astype(np.float64) if scheme.name == "int8" else FP8[codes]
    product: Doubles = values * scales.astype(np.float64)[:, None]
    return product


def _fp8_values() -> Doubles:
    """Of all 256 codes of E4M3 without infinities (arXiv:2209.05433)."""
    codes = np.arange(256)
    exponent, fraction = (codes >> 3) & 15, codes & 7
    normal = np.ldexp(8.0 + fraction, exponent - 10)
    values = np.where(exponent == 0, np.ldexp(fraction.astype(float), -9), normal)
    values[(codes & 127) == 127] = np.nan
    signed: Doubles = np.where(codes >> 7, -values, values)
    return signed


FP8 = _fp8_values()
