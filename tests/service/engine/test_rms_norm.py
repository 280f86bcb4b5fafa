"""The one-pass norm against vLLM's own, which is transformers' arithmetic."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.model_executor.layers.layernorm import RMSNorm
from vllm.platforms import current_platform

from service.engine.models.rms_norm import OnePassRMSNorm

pytestmark = pytest.mark.skipif(not current_platform.is_cpu(), reason="vLLM's CPU kernel")


@pytest.fixture(scope="module", autouse=True)
def _engine_config() -> Iterator[None]:
    current_platform.import_kernels()
    with set_current_vllm_config(VllmConfig()):
        yield


def norm(hidden: int, **settings: Any) -> OnePassRMSNorm:
    made = RMSNorm(hidden, eps=1e-5, **settings)
    assert isinstance(made, OnePassRMSNorm)
    torch.nn.init.normal_(made.weight)
    made.requires_grad_(requires_grad=False)
    return made


@pytest.mark.parametrize("shape", [(1, 64), (300, 128), (2, 7, 1024)])
def test_equals_vllms_within_float32(shape: tuple[int, ...]) -> None:
    layer, x, residual = norm(shape[-1]), torch.randn(shape), torch.randn(shape)
    torch.testing.assert_close(layer.forward_cpu(x.clone()), layer.forward_native(x.clone()))
    taken = layer.forward_cpu(x.clone(), residual.clone())
    expected = layer.forward_native(x.clone(), residual.clone())
    torch.testing.assert_close(taken, expected)


def test_a_single_argument_is_left_as_it_is() -> None:
    layer, x = norm(64), torch.randn(3, 64)
    before = x.clone()
    layer.forward_cpu(x)
    assert torch.equal(x, before)


@pytest.mark.parametrize(
    ("layer", "x"),
    [
        (lambda: norm(64, dtype=torch.bfloat16), torch.randn(5, 64).bfloat16()),
        (lambda: norm(24), torch.randn(5, 24)),
        (lambda: norm(64), torch.randn(5, 128)[:, :64]),
        (lambda: norm(64, var_hidden_size=32), torch.randn(5, 64)),
        (lambda: norm(64, has_weight=False), torch.randn(5, 64)),
    ],
    ids=["16 bits", "odd width", "not contiguous", "variance of a part", "no weight"],
)
def test_what_the_kernel_does_not_do_is_vllms_own_bit_for_bit(
    layer: Callable[[], OnePassRMSNorm], x: torch.Tensor
) -> None:
    made = layer()
    torch.testing.assert_close(made.forward_cpu(x), made.forward_native(x), rtol=0, atol=0)
