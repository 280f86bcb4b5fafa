"""`--verify` agrees for every family that the README names."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.chatglm import GOLDEN, converted_base
from tests.families import FAMILIES, write_family
from tests.models import tiny_adapter, tiny_llama
from tests.training.convert.chatglm2_release import write_release
from training.convert.chatglm.conversion import convert_chatglm
from training.merge.job import merge
from training.merge.verdict import PROMPTS


def agrees(base: Path, adapter: Path, output: Path) -> None:
    verdict = merge(base, [adapter], output, prompts=PROMPTS).verdict
    assert verdict
    assert verdict.positions > 30
    assert verdict.max_difference <= verdict.allowed


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family(tmp_path: Path, family: str) -> None:
    base = write_family(family, tmp_path / "base")
    named = FAMILIES[family].targets
    targets = named if named == "all-linear" else named.strip("[]").split(", ")
    lora: dict[str, Any] = {"target_modules": targets, "task_type": "CAUSAL_LM"}
    agrees(base, tiny_adapter(base, tmp_path / "adapter", std=0.1, **lora), tmp_path / "out")


def test_llama_1(tmp_path: Path) -> None:
    """As Meta's release converts: a head of its own, two adapters' sum in fp16."""
    base = tiny_llama(tmp_path / "base", dtype="float16", num_hidden_layers=4)
    agrees(base, tiny_adapter(base, tmp_path / "adapter"), tmp_path / "out")


def test_chatglm_6b(tmp_path: Path) -> None:
    agrees(converted_base(tmp_path / "base"), GOLDEN / "lora_adapter", tmp_path / "out")


@pytest.mark.parametrize("kind", ["chatglm2", "chatglm3"])
def test_chatglm_2_and_3(tmp_path: Path, kind: str) -> None:
    torch.manual_seed(0)
    convert_chatglm(write_release(tmp_path / "hub", kind), tmp_path / "base")
    targets: dict[str, Any] = {"target_modules": "all-linear", "task_type": "CAUSAL_LM"}
    adapter = tiny_adapter(tmp_path / "base", tmp_path / "adapter", std=0.1, **targets)
    agrees(tmp_path / "base", adapter, tmp_path / "out")


def test_gpt_2(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    sizes = {"vocab_size": 300, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
    GPT2LMHeadModel(GPT2Config(**sizes)).save_pretrained(tmp_path / "base")
    lora: dict[str, Any] = {"target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True}
    adapter = tiny_adapter(tmp_path / "base", tmp_path / "adapter", std=0.3, **lora)
    agrees(tmp_path / "base", adapter, tmp_path / "out")
