"""Quantised model directories: what config.json says of their weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.model_directory.files import read_json

QUANTIZE = "python -m training.quantize"
FOUR_BITS = ("awq", "gptq")  # and what else begins so: their settings only say how many bits
FP8_METHODS = ("fp8", "fbgemm_fp8")


class UnservableError(ValueError):
    """This machine cannot compute the model; the message says why, and the remedy."""


@dataclass(frozen=True)
class Quantised:
    """How the weights are stored, and what is computed with them.

    `bits` and `activation_bits` are None where config.json does not say; activations of 16 bits
    are those that are not quantised. `scheme` is such as int8, fp8 or int4, or several of them.
    `is_blockwise`: scales are those of blocks of rows and columns. `is_reduced`: codes of 8 bits
    use 7 of them.
    """

    method: str
    scheme: str
    bits: int | None = None
    activation_bits: int | None = None
    is_blockwise: bool = False
    is_reduced: bool = False

    @property
    def is_int8(self) -> bool:
        """Weights and activations of 8 bits (W8A8)."""
        return (self.scheme, self.activation_bits) == ("int8", 8)


def read_quantised(model: Path) -> Quantised | None:
    """What the model directory's config.json says; None for plain weights.

    Raises ValueError where it cannot be read.
    """
    config = read_json(model / "config.json")
    found = _settings(config) or _settings(config.get("text_config") or {})
    if not found:
        return None
    try:
        return _read(found)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{model / 'config.json'}: its quantization_config cannot be read"
            f" ({type(error).__name__}: {error})"
        ) from error


def _settings(config: Mapping[str, Any]) -> Mapping[str, Any]:
    return config.get("quantization_config") or config.get("compression_config") or {}


def _read(settings: Mapping[str, Any]) -> Quantised:
    method = str(settings["quant_method"])
    if method == "compressed-tensors":
        reduced = bool(settings.get("reduce_range"))
        return _of_groups(method, [*settings["config_groups"].values()], is_reduced=reduced)
    if method.removeprefix("auto_").startswith(FOUR_BITS):
        bits = int(settings.get("bits") or settings["w_bit"])
        return Quantised(method, f"int{bits}", bits, 16)
    if method in FP8_METHODS:
        return Quantised(method, "fp8", 8, 8, bool(settings.get("weight_block_size")))
    return Quantised(method, method)


def _of_groups(method: str, groups: list[Mapping[str, Any]], *, is_reduced: bool) -> Quantised:
    """Of compressed-tensors: layers of one model may be quantised differently."""
    kinds = {_kind(group["weights"], group.get("input_activations") or {}) for group in groups}
    if len(kinds) == 1:
        return Quantised(method, *kinds.pop(), is_reduced)
    return Quantised(method, "+".join(sorted({kind[0] for kind in kinds})))


def _kind(weights: Mapping[str, Any], inputs: Mapping[str, Any]) -> tuple[str, int, int, bool]:
    """The fields of Quantised behind the method."""
    bits, name = int(weights["num_bits"]), {"int": "int", "float": "fp"}[weights["type"]]
    return (
        f"{name}{bits}",
        bits,
        int(inputs.get("num_bits", 16)),
        weights.get("strategy") == "block",
    )
