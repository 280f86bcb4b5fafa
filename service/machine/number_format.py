"""Which number format `dtype auto` means on a CPU.

vLLM computes in the format that is stored, and in bfloat16 for float32. Measured on two cores:
without bf16 instructions float32 is four times as fast as bfloat16, since every product is
converted there and back; with them bfloat16 is two to three times as fast as float16 and float32.
"""

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from service.machine.cgroups import ROOT, memory_limit, read
from service.machine.processor import instructions
from service.model_directory.quantised import read_quantised

BF16_INSTRUCTIONS = {"avx512_bf16", "amx_bf16", "bf16"}  # the last is Arm's
WORKING_MEMORY = 2 * 2**30  # bytes: libraries, activations, the server
FLOATS = {"F64", "F32", "F16", "BF16"}


@dataclass(frozen=True)
class NumberFormat:
    """A value of vLLM's `dtype`, and why it was chosen."""

    dtype: str
    reason: str
    is_slow: bool = False


def on_cpu(model: Path, cache_gib: int, root: Path = ROOT) -> NumberFormat:
    """The fastest format of this processor that has room in memory beside the cache.

    It is that of the activations and of all weights that are not quantised; weights of fewer bits
    than 8 have kernels for 16-bit activations only.
    """
    quantised = read_quantised(model)
    if quantised and quantised.scheme != "int8":
        return NumberFormat("bfloat16", f"{quantised.scheme} weights are computed in 16 bits")
    if instructions(root) & BF16_INSTRUCTIONS:
        return NumberFormat("bfloat16", "this processor has bf16 instructions")
    need = float32_size(model) + cache_gib * 2**30 + WORKING_MEMORY
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


def float32_size(model: Path) -> int:
    """Bytes of the weights in the directory's *.safetensors, in fp32; quantised ones as they are.

    Without such files they are counted from the size of pytorch_model*.bin, at 16 bits each.
    """
    files = sorted(model.glob("*.safetensors"))
    if not files:
        return sum(path.stat().st_size for path in model.glob("pytorch_model*.bin")) * 2
    return sum(_float32_size(tensor) for path in files for tensor in _tensors(path))


def _float32_size(tensor: Mapping[str, Any]) -> int:
    """From a header's entry."""
    if tensor["dtype"] in FLOATS:
        return 4 * int(prod(tensor["shape"]))
    begin, end = tensor["data_offsets"]
    return int(end) - int(begin)


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


def _available(root: Path) -> float:
    """Bytes of memory that a new program can have without swapping."""
    for line in read(root / "proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return float("inf")
