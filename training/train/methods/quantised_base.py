"""A frozen base whose linear layers hold 4 or 8 bits a weight (QLoRA, arXiv:2305.14314).

transformers quantises each weight as it reads it, so no more than a few are ever in memory in
full. bitsandbytes' layers are then set so that they compute the same in training and evaluation,
on every device: with the dequantised weights, in the precision of the recipe.
"""

import ctypes
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

import bitsandbytes
import torch
from torch import nn
from torch.nn import Module
from transformers import BitsAndBytesConfig, PreTrainedModel

from training.errors import TrainingError
from training.merge.learnt_on.layers import build_class, linear_layers, other_matrices
from training.merge.learnt_on.record import BaseQuantisation
from training.model_directory.directory import HEADS
from training.train.config import TrainConfig
from training.weights.blockwise import BLOCK

LAYERS = (bitsandbytes.nn.Linear4bit, bitsandbytes.nn.Linear8bitLt)
FULL_MODULES = [name.removesuffix(".weight") for name in HEADS]
"""Output layers, by what their names end with: never quantised."""


class Linear8bit(bitsandbytes.nn.Linear8bitLt):
    """bitsandbytes' layer, whose activations are never quantised.

    Its own does that on GPUs, and on CPUs in evaluation but not in training.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[…, in] to […, out]."""
        if self.weight.CB is not None:
            self.init_8bit_state()
        product = bitsandbytes.autograd._functions.MatMul8bitFp
        out: torch.Tensor = product.apply(x, self.weight, None, self.bias, self.state)
        return out


def loading_arguments(config: TrainConfig, dtype: torch.dtype) -> dict[str, Any]:
    """What from_pretrained needs to quantise what it reads; nothing for a base in full.

    It does so on the CPU, whatever trains: the bits must not depend on that.
    Raises TrainingError when weights would stay in full, or `config` trains what is quantised.
    """
    if config.quantization is None:
        return {}
    _check_class(config)
    nf4 = {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
        "bnb_4bit_compute_dtype": dtype,
    }
    wanted = nf4 if config.quantization == "nf4" else {"load_in_8bit": True}
    settings = BitsAndBytesConfig(**wanted, llm_int8_skip_modules=FULL_MODULES)
    return {"quantization_config": settings, "device_map": {"": "cpu"}}


def prepare(base: PreTrainedModel, config: TrainConfig, device: torch.device) -> None:
    """Set the quantised layers of a base that was just loaded, and put them on `device`."""
    if config.quantization is None:
        return
    for layer in _layers(base):
        if config.quantization == "int8":
            layer.__class__ = Linear8bit
        # else evaluating on a CPU with bf16 instructions repacks and rounds weights in place
        layer.support_avx512bf16_for_cpu = False
        layer.weight = layer.weight.to(device)
    base.requires_grad_(False)
    _return_freed_memory()
    dtype = str(base.dtype).removeprefix("torch.")
    base.learnt_on = BaseQuantisation(config.quantization, dtype)


def _return_freed_memory() -> None:
    """What weights in full took while they were read, which glibc would keep."""
    with suppress(OSError, AttributeError):  # another libc
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _layers(base: Module) -> list[Any]:
    return [module for module in base.modules() if isinstance(module, LAYERS)]


def learnt_on(base: Module) -> BaseQuantisation | None:
    """What is to be recorded of a base's quantisation; None for one in full."""
    found: BaseQuantisation | None = getattr(base, "learnt_on", None)
    return found


def elements(parameter: torch.Tensor) -> int:
    """How many numbers a parameter stands for: in 4 bits, two a byte."""
    state = getattr(parameter, "quant_state", None)
    return state.shape.numel() if state is not None else parameter.numel()


def describe_memory(base: PreTrainedModel, config: TrainConfig) -> list[str]:
    """A line about the bytes of a quantised base, in full and as it is."""
    if config.quantization is None:
        return []
    layers = _layers(base)
    in_full = [base.dtype.itemsize * _elements(modules) for modules in (base.modules(), layers)]
    now = [_bytes(modules) for modules in (base.modules(), layers)]
    whole, linear = (
        f"{before / 1e6:.0f} MB in {config.precision} -> {after / 1e6:.0f} MB"
        for before, after in zip(in_full, now, strict=True)
    )
    return [
        f"base: {whole} with {len(layers)} linear layers in {config.quantization} ({linear});"
        " embeddings, output layer and norms stay as they are"
    ]


def _elements(modules: Iterable[Module]) -> int:
    return sum(elements(p) for p in _own_parameters(modules))


def _own_parameters(modules: Iterable[Module]) -> list[torch.Tensor]:
    """Each once: ends may be tied."""
    own = {id(p): p for module in modules for p in module.parameters(recurse=False)}
    return [*own.values()]


def _bytes(modules: Iterable[Module]) -> int:
    """With the scales of quantised weights."""
    return sum(tensor.nbytes for p in _own_parameters(modules) for tensor in (p, *_scales(p)))


def _scales(parameter: torch.Tensor) -> list[torch.Tensor]:
    if (state := getattr(parameter, "quant_state", None)) is not None:
        return [state.absmax, state.state2.absmax, state.offset]
    scale = getattr(parameter, "SCB", None)
    return [] if scale is None else [scale]


def _check_class(config: TrainConfig) -> None:
    """Build the base's class without weights, and look at its layers."""
    model = build_class(config.model)
    if full := other_matrices(model):
        raise TrainingError(
            f"quantization={config.quantization} reaches plain linear layers, and"
            f" {type(model).__name__} has matrices in others, which would stay in full"
            f" ({', '.join(full[:2])}{', …' * (len(full) > 2)}): set quantization=null"
        )
    if config.quantization == "nf4":
        _refuse_broken_blocks(linear_layers(model))
    _refuse_saved_whole(config, linear_layers(model))


def _refuse_saved_whole(config: TrainConfig, layers: Iterable[str]) -> None:
    for kept in config.saved_whole:
        if layer := next((name for name in layers if f".{kept}." in f".{name}."), None):
            raise TrainingError(
                f"modules_to_save trains {kept} whole, and quantization={config.quantization}"
                f" freezes {layer} in it: take it out, or set quantization=null"
            )


def _refuse_broken_blocks(layers: Mapping[str, nn.Linear]) -> None:
    """Rows of 16·n weights that are no whole blocks bitsandbytes 0.50 dequantises wrongly.

    So it is on CPUs with AVX-512.
    """
    for name, layer in layers.items():
        if layer.in_features % BLOCK:
            raise TrainingError(
                f"quantization=nf4 needs rows of whole blocks of {BLOCK} weights, and those of"
                f" {name} have {layer.in_features}: use quantization=int8 or null"
            )
