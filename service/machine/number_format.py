"""Which number format `dtype auto` means on a CPU.

vLLM computes in the format that is stored, and in bfloat16 for float32. Measured on two cores:
without bf16 instructions float32 is four times as fast as bfloat16, since every product is
converted there and back; with them bfloat16 is two to three times as fast as float16 and float32.
"""

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from service.machine.cgroups import ROOT, memory_limit, read

BF16_INSTRUCTIONS = {"avx512_bf16", "amx_bf16", "bf16"}  # the last is Arm's
WORKING_MEMORY = 2 * 2**30  # bytes: libraries, activations, the server
FLOAT_SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}


@dataclass(frozen=True)
class NumberFormat:
    """A value of vLLM's `dtype`, and why it was chosen."""

    dtype: str
    reason: str
    is_slow: bool = False


def on_cpu(model: Path, cache_gib: int, root: Path = ROOT) -> NumberFormat:
    """The fastest format of this processor that has room in memory beside the cache.

    A quantised model keeps what its format needs.
    """
    if "quantization_config" in json.loads((model / "config.json").read_text(encoding="utf-8")):
        return NumberFormat("auto", "the model is quantised")
    if _flags(root) & BF16_INSTRUCTIONS:
        return NumberFormat("bfloat16", "this processor has bf16 instructions")
    need = parameters(model) * FLOAT_SIZES["F32"] + cache_gib * 2**30 + WORKING_MEMORY
    room = min(_available(root), memory_limit(root))
    sizes = f"{need / 1e9:.1f} GB with the cache, of {room / 1e9:.1f} GB"
    if need > room:
        return NumberFormat(
            "auto",
            f"float32 would need {sizes} of memory; this processor has no bf16 instructions, so 16 "
            "bits are several times slower: give it more memory, or lower cpu_kvcache_gib",
            is_slow=True,
        )
    return NumberFormat(
        "float32", f"this processor has no bf16 instructions; float32 needs {sizes} of memory"
    )


def parameters(model: Path) -> int:
    """How many floating-point numbers the directory's *.safetensors hold.

    Without such files they are counted from the size of pytorch_model*.bin, at 16 bits each.
    """
    files = sorted(model.glob("*.safetensors"))
    if not files:
        return sum(path.stat().st_size for path in model.glob("pytorch_model*.bin")) // 2
    return sum(
        prod(tensor["shape"])
        for path in files
        for tensor in _tensors(path)
        if tensor["dtype"] in FLOAT_SIZES
    )


def _tensors(path: Path) -> Iterator[dict[str, Any]]:
    """The header's entries; none of a file that is no safetensors, which vLLM will refuse."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(min(length, path.stat().st_size)))
    except (OSError, ValueError, struct.error):
        return
    header.pop("__metadata__", None)
    yield from header.values()


def _flags(root: Path) -> set[str]:
    """Names of the processor's instruction sets."""
    lines = read(root / "proc/cpuinfo").splitlines()
    names = (line.partition(":") for line in lines)
    return next((set(v.split()) for k, _, v in names if k.strip() in ("flags", "Features")), set())


def _available(root: Path) -> float:
    """Bytes of memory that a new program can have without swapping."""
    for line in read(root / "proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return float("inf")
