"""LoRA by groups of rows against vLLM's own way, which gathers the weights for every token."""

import platform
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from vllm.lora.layers import LoRAMapping
from vllm.lora.punica_wrapper import get_punica_wrapper
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU
from vllm.platforms import current_platform

from service.engine.models import register_cpu_kernels
from service.engine.models.grouped_lora import GroupedLoRA

pytestmark = pytest.mark.skipif(not current_platform.is_cpu(), reason="LoRA of CPUs")
SLOTS, RANK, WIDTH, OUT = 4, 8, 24, (40, 16)
ADAPTERS = [12, 11, None, None]  # by slot; the last one is kept free, as vllm_engine.py does


def both(rows: list[int], requests: list[int]) -> tuple[GroupedLoRA, PunicaWrapperCPU]:
    """Ours and vLLM's, told which adapter each row of the step and each request asks for."""
    register_cpu_kernels()
    room = {"max_num_batched_tokens": 64, "max_batches": 16, "device": "cpu"}
    ours, theirs = get_punica_wrapper(**room), PunicaWrapperCPU(**room)
    assert isinstance(ours, GroupedLoRA)
    mapping = LoRAMapping(tuple(rows), tuple(requests), is_prefill=True)
    for each in (ours, theirs):
        each.update_metadata(mapping, ADAPTERS, SLOTS, 100)
    return ours, theirs


def stacked(*shape: int) -> torch.Tensor:
    """Weights of the slots that are taken; the others are zeros."""
    weights = torch.zeros(SLOTS, 1, *shape)
    weights[:2].normal_()
    return weights


def last_two_words(code: str) -> list[str]:
    """What a process of its own prints: others may have touched what this one holds."""
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return run.stdout.split()[-2:]


def test_the_plugin_puts_ours_in_place() -> None:
    """In a process of its own: in the tests' own, training has a ChatGLM-6B of its own."""
    code = (
        "import service.engine.models; service.engine.models.register()\n"
        "from vllm.platforms import current_platform\n"
        "from vllm.model_executor.custom_op import op_registry_oot\n"
        "print(current_platform.get_punica_wrapper(), op_registry_oot['RMSNorm'].__name__)"
    )
    assert last_two_words(code) == [
        "service.engine.models.grouped_lora.GroupedLoRA",
        "OnePassRMSNorm",
    ]


@pytest.mark.skipif(platform.machine() != "x86_64", reason="AMX is a part of x86-64")
def test_a_process_with_the_plugin_may_use_the_tile_registers_if_there_are_any() -> None:
    """Attention of vLLM in bfloat16 takes them for granted, and would end in SIGILL."""
    code = (
        "import ctypes, torch, service.engine.models; service.engine.models.register()\n"
        "held, arch_prctl, get_permissions, tiles = ctypes.c_uint64(), 158, 0x1022, 18\n"
        "ctypes.CDLL(None).syscall(arch_prctl, get_permissions, ctypes.byref(held))\n"
        "print(torch.cpu._is_amx_tile_supported(), bool(held.value >> tiles & 1))"
    )
    are_there, permitted = last_two_words(code)
    assert are_there == permitted


MIXES = pytest.mark.parametrize(
    "rows",
    [[0] * 9, [11] * 9, [0, 0, 12, 12, 12, 0], [11, 0, 12, 11, 12, 0, 0, 11], [12]],
    ids=["none", "one for all", "a run", "mixed", "one row"],
)
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])


@MIXES
@DTYPES
def test_a_projection_of_several_parts(rows: list[int], dtype: torch.dtype) -> None:
    x, y = torch.randn(len(rows), WIDTH).to(dtype), torch.randn(len(rows), sum(OUT)).to(dtype)
    a = tuple(stacked(RANK, WIDTH).to(dtype) for _ in OUT)
    b = tuple(stacked(out, RANK).to(dtype) for out in OUT)
    made = []
    for wrapper in both(rows, [0]):
        made.append(y.clone())
        wrapper.add_lora_linear(made[-1], x, a, b, 1.0, OUT)
    torch.testing.assert_close(*made)
    assert torch.equal(made[0], y) != any(rows)


def test_the_output_may_have_a_dimension_more() -> None:
    x, y = torch.randn(4, WIDTH), torch.randn(1, 4, OUT[0])
    a, b = stacked(RANK, WIDTH), stacked(OUT[0], RANK)
    made = []
    for wrapper in both([12, 0, 11, 12], [0]):
        made.append(y.clone())
        wrapper.add_lora_linear(made[-1], x, (a,), (b,), 1.0, OUT[:1])
    torch.testing.assert_close(*made)


@MIXES
@pytest.mark.parametrize("padded", [96, 100, 128])
def test_embeddings_and_logits(rows: list[int], padded: int) -> None:
    x, y = torch.randn(9, WIDTH), torch.randn(9, padded)
    a, b = stacked(RANK, WIDTH), stacked(100, RANK)
    calls: list[Callable[[PunicaWrapperCPU, torch.Tensor], object]] = [
        lambda wrapper, out: wrapper.add_lora_embedding(out, x[: len(rows), :RANK], b),
        lambda wrapper, out: wrapper.add_lora_logits(out, x[: len(rows)], a, b, 0.5),
    ]
    for call in calls:
        made = []
        for wrapper in both(rows, rows):
            made.append(y[: len(rows)].clone())
            call(wrapper, made[-1])
        torch.testing.assert_close(*made)
