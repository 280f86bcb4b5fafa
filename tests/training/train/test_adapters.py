"""Every kind of adapter trains what it says, is saved whole, and loads in peft."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from tests.models import tiny_llama, weights
from training.errors import TrainingError
from training.train.config import load_config
from training.train.job import train

IDS = torch.arange(1, 20)[None]


def adapter_from(recipe: Path, *overrides: str) -> Path:
    return train(load_config(recipe, list(overrides)))


def logits(base: Path, adapter: Path | None = None) -> torch.Tensor:
    model: Any = AutoModelForCausalLM.from_pretrained(base)
    if adapter:
        model = PeftModel.from_pretrained(model, adapter)
    with torch.no_grad():
        result: torch.Tensor = model.eval()(input_ids=IDS).logits
    return result


@pytest.mark.parametrize(
    ("overrides", "settings"),
    [
        (["lora.rslora=true"], {"use_rslora": True}),
        (["lora.dora=true"], {"use_dora": True}),
        (["lora=null", "adalora={tinit: 1, tfinal: 1}"], {"peft_type": "ADALORA", "init_r": 12}),
        (["lora=null", "prefix={tokens: 5}"], {"peft_type": "PREFIX_TUNING"}),
        (["lora=null", "prefix={tokens: 5, projection: true}"], {"prefix_projection": True}),
    ],
    ids=["rslora", "dora", "adalora", "prefix", "projected-prefix"],
)
def test_what_was_trained_is_what_peft_loads(
    recipe: Path, base_model: Path, overrides: list[str], settings: dict[str, Any]
) -> None:
    adapter = adapter_from(recipe, *overrides)
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert settings.items() <= config.items()
    difference = (logits(base_model, adapter) - logits(base_model)).abs().max()
    assert difference > 1e-3


def test_modules_to_save_are_trained_and_saved(recipe: Path, base_model: Path) -> None:
    adapter = adapter_from(recipe, "lora.modules_to_save=[lm_head, embed_tokens]")
    saved, base = weights(adapter), weights(base_model)
    for name in ("lm_head", "model.embed_tokens"):
        trained = saved[f"base_model.model.{name}.weight"]
        assert trained.dtype == torch.float32
        assert (trained - base[f"{name}.weight"]).abs().max() > 1e-3


def test_adalora_ends_with_the_ranks_it_was_given(recipe: Path) -> None:
    adapter = adapter_from(
        recipe, "lora=null", "adalora={init_r: 4, target_r: 2, tinit: 1, tfinal: 2}"
    )
    pattern = json.loads((adapter / "adapter_config.json").read_text())["rank_pattern"]
    kept = sum(sum(ranks) for ranks in pattern.values())
    assert kept == 2 * len(pattern) == 2 * 14
    saved = weights(adapter)
    assert sum(len(values) for name, values in saved.items() if "lora_E" in name) == kept


def test_a_prefix_of_peft_s_with_checkpointing_is_refused(recipe: Path) -> None:
    with pytest.raises(TrainingError, match="recomputes without peft's prefix"):
        adapter_from(recipe, "lora=null", "prefix={tokens: 5}", "gradient_checkpointing=true")


def test_adalora_that_outlasts_the_run_is_refused_with_the_run_s_length(recipe: Path) -> None:
    with pytest.raises(TrainingError, match="adalora does not fit this model and run of 6 updates"):
        adapter_from(recipe, "lora=null", "adalora={tinit: 4, tfinal: 4}")


@pytest.mark.parametrize("sizes", [{}, {"num_key_value_heads": 4}, {"head_dim": 12}])
def test_a_prefix_generates_on_every_shape_of_heads(
    recipe: Path, base_model: Path, tmp_path: Path, sizes: dict[str, Any]
) -> None:
    base = tiny_llama(tmp_path / "model", vocab_size=4140, **sizes)
    for path in base_model.glob("*token*"):
        (base / path.name).write_bytes(path.read_bytes())
    adapter = adapter_from(recipe, f"model={base}", "lora=null", "prefix={tokens: 5}")
    heads, size = sizes.get("num_key_value_heads", 2), sizes.get("head_dim", 8)
    assert weights(adapter)["prompt_embeddings"].shape == (5, 2 * 2 * heads * size)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)
    out = model.generate(input_ids=IDS, attention_mask=torch.ones_like(IDS), max_new_tokens=4)
    assert out.shape == (1, 19 + 4)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("extra", [[], ["gradient_checkpointing=true"], ["data.batching=packed"]])
def test_precisions_checkpointing_and_packing_learn_alike(
    recipe: Path, tmp_path: Path, precision: str, extra: list[str]
) -> None:
    whole = "lora.modules_to_save=[embed_tokens, lm_head]"
    adapter_from(recipe, whole, f"precision={precision}", "optim.steps=20", "log_every=5", *extra)
    lines = (tmp_path / "adapter.run" / "log.jsonl").read_text().splitlines()
    first, last = (json.loads(line)["loss"] for line in (lines[0], lines[-1]))
    assert last < first / 2
    assert {tensor.dtype for tensor in weights(tmp_path / "adapter").values()} == {torch.float32}
