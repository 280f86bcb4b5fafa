"""int8 models served by the real engine, against transformers with the same codes and scales."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from peft import PeftModel

import training.chatglm  # noqa: F401 - so that ChatGLM-6B is known
from service.machine.cpu_kernels import lacks_vnni
from service.machine.processor import instructions
from tests.chatglm import GOLDEN, attach_prefix, converted_base, random_prefix
from tests.families import write_family
from tests.likeliest import Answer, chosen
from tests.models import tiny_adapter
from tests.server import serving
from training.merge.dequantised import load_dequantised
from training.merge.job import WeightsFormat, merge
from training.merge.quantisation import Quantisation
from training.rendering.tokenizer import load_tokenizer

PROMPTS = ["感冒了怎么办？", "头痛", "病人咳嗽，高血压", "多喝水。" * 9, "1 + 1", "发烧" * 30]
TOKENS = 24
ANSWERS = 160
MOST_OTHERS = {"float32": 16, "bfloat16": 4}  # one id of so many; random models have near ties
SAME = 0.95  # of the answers of the demo, those that the float32 model gives


def int8(base: Path, output: Path, *adapters: Path) -> Path:
    reduced = lacks_vnni(instructions())
    quantisation = Quantisation.of("int8", clip=True, reduce_range=reduced)
    merge(base, adapters, output, WeightsFormat(quantisation=quantisation))
    return output


def quantise_activations(_: Any, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
    """As the kernels do: for each token 127 steps up to its largest value."""
    (x,) = inputs
    scale = x.float().abs().amax(dim=-1, keepdim=True).clamp_min(1e-12) / 127
    return ((x.float() / scale).round() * scale,)


def int8_model(directory: Path, dtype: torch.dtype) -> Any:
    """The dequantised model in `dtype`; its quantised layers take activations of 8 bits.

    Their sums are of int8 products and so exact: here in fp32, rounded to `dtype` once.
    """
    made = load_dequantised(directory)
    for name, module in made.model.named_modules():
        if f"{name}.weight" in made.moved:
            module.register_forward_pre_hook(quantise_activations)
            module.register_forward_hook(lambda _, inputs, output: output.to(dtype))
        else:
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.to(dtype)
    return made.model


def check(directory: Path, served: list[Answer], dtype: str, attach: Callable[[Any], None]) -> None:
    """Each served id is the likeliest of the dequantised model, or as likely as can be told.

    What is not told: rounding activations to 8 bits moves a logit by as much as the same model with
    and without that rounding differs. The engine sums in another order, so that some activations
    round to the other side: that moves logits by a part of it.
    """
    tokenizer = load_tokenizer(directory, None)
    model, plain = int8_model(directory, getattr(torch, dtype)), load_dequantised(directory).model
    attach(model)
    attach(plain)
    found = chosen(model, plain, tokenizer, PROMPTS, served)
    print(f"{dtype}: {found}")
    assert max(found.gaps) <= found.moved / 2
    assert found.off <= found.moved  # a logit by half as much, and the sum of all by that again
    assert found.others <= len(found.gaps) / MOST_OTHERS[dtype]


MODELS: dict[str, Callable[[Path], tuple[Path, list[Path]]]] = {
    "qwen3": lambda folder: (write_family("qwen3", folder), []),
    "chatglm-6b": lambda folder: (converted_base(folder), [GOLDEN / "lora_adapter"]),
    "p-tuned chatglm-6b": lambda folder: p_tuned(folder),
}


def p_tuned(folder: Path) -> tuple[Path, list[Path]]:
    base = converted_base(folder)
    return base, [random_prefix(base, folder.with_name("prefix"), 5, projection=False)]


@pytest.mark.parametrize("kind", MODELS)
def test_served_ids_are_those_of_the_dequantised_model(kind: str, tmp_path: Path) -> None:
    base, adapters = MODELS[kind](tmp_path / "base")
    model = int8(base, tmp_path / "int8", *adapters)
    with serving(model, tmp_path / "log", dtype="auto", max_model_len=400) as server:
        together = server.positions(PROMPTS, logprobs=20, max_tokens=TOKENS, ignore_eos=True)
        alone = [
            server.generated_ids([prompt], max_tokens=TOKENS, ignore_eos=True)[0]
            for prompt in PROMPTS
        ]
        info = httpx.get(f"{server.url}/info", timeout=60).json()
    assert [[position["token_id"] for position in answer] for answer in together] == alone
    assert info["quantization"] == {
        "method": "compressed-tensors",
        "scheme": "int8",
        "bits": 8,
        "activation_bits": 8,
    }
    prefix = tmp_path / "prefix"
    attach = partial(attach_prefix, prefix=prefix) if prefix.exists() else lambda _: None
    check(model, together, info["dtype"], attach)


@pytest.mark.skipif(
    "amx_tile" not in instructions(), reason="adapters beside int8 need a processor with AMX"
)
def test_an_adapter_beside_int8_answers_as_beside_the_dequantised_model(tmp_path: Path) -> None:
    base = write_family("qwen3", tmp_path / "base")
    adapter = tiny_adapter(base, tmp_path / "adapter", std=0.2)
    model = int8(base, tmp_path / "int8")
    asked = {"logprobs": 20, "max_tokens": TOKENS, "ignore_eos": True}
    settings = {"dtype": "auto", "max_model_len": 400, "adapters": f"a={adapter}"}
    with serving(model, tmp_path / "log", **settings) as server:
        alone = server.positions(PROMPTS, **asked)
        beside = server.positions(PROMPTS, adapter="a", **asked)
    check(model, alone, "bfloat16", lambda _: None)
    check(model, beside, "bfloat16", lambda model: PeftModel.from_pretrained(model, adapter))
    assert alone != beside


def test_the_demo_answers_as_in_float32(demo: Path, tmp_path: Path) -> None:
    """Of base and adapter, quantised while merging."""
    model = int8(demo / "base", tmp_path / "int8", demo / "adapter")
    rows = (demo / "data" / "dev.json").read_text("utf-8").splitlines()[:ANSWERS]
    prompts = [json.loads(row)["input"] for row in rows]
    answers = []
    for directory, dtype in ((demo / "model", "float32"), (model, "auto")):
        with serving(directory, tmp_path / f"{dtype}.log", dtype=dtype) as server:
            answers.append(server.generated_ids(prompts, max_tokens=196))
    same = sum(one == other for one, other in zip(*answers, strict=True))
    print(f"{same} of {len(prompts)} answers are those of the float32 model")
    assert same >= SAME * len(prompts)
