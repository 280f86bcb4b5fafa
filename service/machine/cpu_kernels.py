"""What vLLM's kernels for CPUs can compute of quantised models and caches.

The rest fails at the first step, crawls, or is wrong without a word: it is refused before anything
loads. Found out with vLLM 0.32 on processors with AVX2, AVX512 and AMX.
"""

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from pathlib import Path

from service.machine.cgroups import ROOT
from service.machine.processor import instructions
from service.model_directory.quantised import QUANTIZE, Quantised, UnservableError

INT8 = f"{QUANTIZE} --scheme int8"
PLAIN = f"serve it on a GPU, or the model it was quantised from, or that one as int8 ({INT8})"
VNNI = ("avx512_vnni", "avx_vnni", "amx_tile", "amx_int8")
CACHES = ("auto", "float16", "bfloat16")
FP8_CACHES = ("fp8", "fp8_e4m3", "fp8_e5m2")


Rule = tuple[bool, str]
"""Whether it holds, and what to say then."""


@dataclass(frozen=True)
class Wanted:
    """What the settings ask for, by the names of vLLM's arguments."""

    dtype: str = "auto"
    cache: str = "auto"
    adapters: bool = False
    quantisation: str | None = None


def refuse_on_cpu(quantised: Quantised | None, wanted: Wanted, root: Path = ROOT) -> None:
    """Raise UnservableError for what this machine's processor cannot compute rightly."""
    has = instructions(root)
    kind = _kind(quantised)
    rules = [*_of_caches(wanted, has), *RULES.get(kind, _of_others)(wanted, has)]
    for is_so, why in rules:
        if is_so:
            raise UnservableError(why.format(kind=kind, wanted=wanted))


def lacks_vnni(has: Set[str]) -> bool:
    """Whether int8 products overflow in oneDNN, on an x86 processor with these instructions."""
    return "sse2" in has and has.isdisjoint(VNNI)


def _kind(quantised: Quantised | None) -> str:
    """A key of RULES, or a name for what is none of them."""
    if quantised is None:
        return "plain"
    blocks = " in blocks" if quantised.is_blockwise else ""
    reduced = " of 7" if quantised.is_reduced else ""
    return f"{quantised.scheme}{blocks}{reduced}, {quantised.activation_bits}-bit activations"


def _of_caches(wanted: Wanted, has: Set[str]) -> list[Rule]:
    is_fp8 = wanted.cache in FP8_CACHES
    return [
        (
            not is_fp8 and wanted.cache not in CACHES,
            "kv_cache_dtype={wanted.cache}: on a CPU vLLM would compute with wrong keys and values;"
            " it has fp8 there (fp8, fp8_e4m3, fp8_e5m2), and auto",
        ),
        (
            is_fp8 and has.isdisjoint(("avx512f", "amx_tile")),
            "kv_cache_dtype={wanted.cache} needs a processor with AVX512: leave it at auto",
        ),
    ]


def _of_plain(wanted: Wanted, _: Set[str]) -> list[Rule]:
    return [
        (
            wanted.quantisation is not None,
            "vLLM quantises nothing while it loads on a CPU (quantization={wanted.quantisation}):"
            f" write int8 weights with {INT8}",
        )
    ]


def _of_int8(wanted: Wanted, has: Set[str]) -> list[Rule]:
    return [
        (
            lacks_vnni(has),
            "this processor has no VNNI: oneDNN adds its int8 products up in 16 bits there, and"
            f" what is too large is cut off without a word: quantise with {INT8} --reduce-range",
        ),
        *_of_reduced_int8(wanted, has),
    ]


def _of_reduced_int8(wanted: Wanted, has: Set[str]) -> list[Rule]:
    has_amx = "amx_tile" in has
    return [
        (
            has_amx and wanted.dtype not in ("auto", "bfloat16"),
            "on this processor vLLM computes int8 weights with AMX, which takes no {wanted.dtype}:"
            " leave dtype at auto, which is bfloat16 here",
        ),
        (
            wanted.adapters and not has_amx,
            "vLLM has no adapters beside an int8 model on a processor without AMX: merge them"
            " (python -m training.merge --quantize int8), or serve the base unquantised",
        ),
    ]


def _of_int4(wanted: Wanted, has: Set[str]) -> list[Rule]:
    return [
        (
            "sse2" in has and "avx512f" not in has,  # Arm has kernels of its own
            f"vLLM's kernel for 4-bit weights needs AVX512, which this processor has not: {PLAIN}",
        ),
        (
            wanted.dtype == "float32",
            "4-bit weights are computed with 16-bit activations: leave dtype at auto",
        ),
    ]


def _of_fp8(_: Wanted, has: Set[str]) -> list[Rule]:
    return [
        (
            "amx_fp8" not in has,
            "without AMX-FP8 vLLM computes fp8 weights on a CPU some thousand times slower than"
            f" int8: {PLAIN}",
        )
    ]


def _of_fp8_blocks(_: Wanted, has: Set[str]) -> list[Rule]:
    return [
        (
            "amx_tile" not in has,
            f"fp8 weights in blocks need a processor with AMX on a CPU: {PLAIN}",
        )
    ]


def _of_others(*_: object) -> list[Rule]:
    return [(True, "vLLM has no kernel for such weights on a CPU ({kind}): " + PLAIN)]


RULES: Mapping[str, Callable[[Wanted, Set[str]], list[Rule]]] = {
    "plain": _of_plain,
    "int8, 8-bit activations": _of_int8,
    "int8 of 7, 8-bit activations": _of_reduced_int8,
    "int4, 16-bit activations": _of_int4,
    "fp8, 8-bit activations": _of_fp8,
    "fp8 in blocks, 8-bit activations": _of_fp8_blocks,
}
