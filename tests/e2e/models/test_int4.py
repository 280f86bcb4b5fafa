"""Weights of 4 bits, calibrated and served: the ids of the model that they stand for."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

import training.chatglm  # noqa: F401 - so that ChatGLM-6B is known
from tests.likeliest import Answer, chosen
from tests.server import serving
from tests.training.gptq.dequantised import write_dequantised
from tests.training.gptq.models import calibrated, write_kind
from training.gptq.__main__ import main as gptq
from training.rendering.tokenizer import load_tokenizer

pytestmark = pytest.mark.skipif(
    not torch.cpu._is_avx512_supported(),
    reason="vLLM's int4 kernels for CPUs need AVX512, which this machine has not",
)
PROMPTS = ["感冒了怎么办？", "the capital of France", "多喝水。" * 9, "1 + 1", "？", "发烧" * 30]
DTYPES = {"glm4": "bfloat16"}  # vLLM refuses float16 for it
LOGPROBS = {"float16": 2, "bfloat16": 8}  # AMX rounds activations to 8 bits as well, in bfloat16
KINDS = ("qwen3", "glm", "glm4", "chatglm_6b")


def check(plain: Path, dtype: str, prompts: list[str], served: list[Answer]) -> None:
    """Each served id is the likeliest one, or as likely as `dtype` can tell.

    Two logits that are off by at most what the type moves any of them by change places only where
    they differ by less than twice that.
    """
    exact, rounded = (
        AutoModelForCausalLM.from_pretrained(plain, dtype=each).eval()
        for each in (torch.float32, getattr(torch, dtype))
    )
    found = chosen(exact, rounded, load_tokenizer(plain, None), prompts, served)
    print(f"{dtype}: {found}")
    assert max(found.gaps) <= 2 * found.moved
    assert found.off <= LOGPROBS[dtype] * found.moved
    assert found.others <= len(found.gaps) / 8


@pytest.mark.parametrize("kind", KINDS)
def test_served_ids_are_those_of_the_dequantised_model(kind: str, tmp_path: Path) -> None:
    model, int4 = write_kind(kind, tmp_path / "model"), tmp_path / "int4"
    calibrated(model, int4)
    dtype = DTYPES.get(kind, "float16")
    with serving(int4, tmp_path / "log", dtype=dtype, max_model_len=400) as server:
        served = server.positions(PROMPTS, max_tokens=16, ignore_eos=True, logprobs=20)
    check(write_dequantised(int4, tmp_path / "plain"), dtype, PROMPTS, served)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_demo_answers_as_its_dequantised_weights_do(
    demo: Path, tmp_path: Path, dtype: str
) -> None:
    int4, data = tmp_path / "int4", demo / "data" / "train.json"
    command = ["--model", str(demo / "model"), "--output", str(int4), "--data", str(data)]
    assert gptq([*command, "--samples", "256", "--group-size", "64"]) == 0
    rows = (demo / "data" / "dev.json").read_text("utf-8").splitlines()[:64]
    prompts = [json.loads(row)["input"] for row in rows]
    with serving(int4, tmp_path / "log", dtype=dtype) as server:
        served = server.positions(prompts, max_tokens=64, logprobs=5)
    check(write_dequantised(int4, tmp_path / "plain"), dtype, prompts, served)
