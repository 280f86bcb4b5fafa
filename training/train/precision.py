"""The number format a base computes in where a recipe says `precision: auto`.

That is bf16 where the GPU or the processor has instructions for it: half the memory, and faster
for all but tiny models. A CPU without them converts every product there and back and is several
times slower in bf16 than in fp32, so it gets fp32 when that fits into memory.
"""

import os
from math import prod
from pathlib import Path

import torch

from training.cgroups import ROOT, available_memory, read
from training.model_directory.directory import is_end
from training.train.config import TrainConfig
from training.weights.blockwise import QUANTISED
from training.weights.directory import read_model

BF16_INSTRUCTIONS = {"avx512_bf16", "amx_bf16", "bf16"}  # the last is Arm's
WORKING_MEMORY = 4 * 2**30  # bytes: libraries, activations, the adapter and its optimiser


def dtype_of(config: TrainConfig) -> torch.dtype:
    """What the decided precision of `config` is in torch."""
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[config.precision]


def decide(config: TrainConfig) -> tuple[str, str]:
    """The precision that `config` leads to on this machine, and a line about it for the user.

    Raises TrainingError when the base's weights cannot be read.
    """
    if config.precision == "auto":
        precision, reason = choose(config.model, config.parallel, config.quantization)
        return precision, f"precision {precision}: {reason}"
    if slow(config.precision):
        return config.precision, (
            "warning: this processor has no bf16 instructions, so bf16 is several times slower than"
            " fp32: precision=auto takes fp32 if memory allows"
        )
    return config.precision, f"precision {config.precision}"


def choose(model: Path, parallel: str, quantization: str | None = None) -> tuple[str, str]:
    """fp32, bf16 or fp16 for the base in `model`, and the reason.

    Raises TrainingError when the weights cannot be read.
    """
    if not torch.cuda.is_available():
        return on_cpu(model, quantization=quantization)
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return "bf16", "this GPU has bf16 instructions"
    if parallel == "fsdp":  # which has no loss scaling
        return "fp32", "this GPU has no bf16 instructions"
    return "fp16", "this GPU has no bf16 instructions"


def on_cpu(model: Path, root: Path = ROOT, *, quantization: str | None = None) -> tuple[str, str]:
    """The same without a GPU; `root` holds proc and sys."""
    if _has_bf16(root):
        return "bf16", "this processor has bf16 instructions"
    need, available = _need(model, quantization), available_memory(root)
    sizes = f"fp32 needs {need / 1e9:.1f} GB of {available / 1e9:.1f} GB"
    if need <= available:
        return "fp32", f"this processor has no bf16 instructions; {sizes}"
    return "bf16", f"{sizes}; this processor has no bf16 instructions, so it will be slow"


def slow(precision: str, root: Path = ROOT) -> bool:
    """Whether this machine computes `precision` without instructions for it."""
    return precision == "bf16" and not torch.cuda.is_available() and not _has_bf16(root)


def _need(model: Path, quantization: str | None) -> float:
    """Bytes that this machine's processes take with the base in fp32, or quantised from it."""
    matrices = QUANTISED.get(str(quantization), 4)
    size = sum(
        prod(tensor.shape) * (4 if is_end(name) or len(tensor.shape) < 2 else matrices)
        for name, tensor in read_model(model).items()
    )
    return (size + WORKING_MEMORY) * int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def _has_bf16(root: Path) -> bool:
    lines = (line.partition(":") for line in read(root / "proc/cpuinfo").splitlines())
    flags = (set(v.split()) for k, _, v in lines if k.strip() in ("flags", "Features"))
    return not BF16_INSTRUCTIONS.isdisjoint(next(flags, set()))
