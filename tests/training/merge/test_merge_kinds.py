import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.models import PROJECTIONS, edit_json, edit_weights, tiny_adapter, tiny_llama, weights
from tests.training.merge.exact import Tensors, nearest
from tests.training.merge.test_merge import peft_merged
from training.errors import TrainingError
from training.merge.job import merge

Q = "model.layers.1.self_attn.q_proj"
INIT_R = 6


def adalora(base: Path, path: Path, trained: bool = True, **settings: Any) -> Path:
    """Write an AdaLoRA adapter as peft saves it; `trained` ones have lost some of their ranks."""
    from peft import AdaLoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    sizes = {"init_r": INIT_R, "target_r": 3, "tinit": 0, "tfinal": 1, "total_step": 4, "deltaT": 1}
    config = AdaLoraConfig(**(sizes | {"lora_alpha": 8, "target_modules": PROJECTIONS} | settings))
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    torch.manual_seed(3)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    ids = torch.arange(1, 20)[None]
    for step in range(1, 4 if trained else 1):
        model(ids, labels=ids).loss.backward()
        model.base_model.update_and_allocate(step)
        model.zero_grad()
    model.save_pretrained(path, save_embedding_layers=False)
    return path


@pytest.mark.parametrize(
    "lora",
    [
        {},
        {"use_rslora": True, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"k_proj": 3}},
        {"modules_to_save": ["embed_tokens", "lm_head"]},
        {"target_modules": ["q_proj", "lm_head"]},
    ],
)
def test_dora_equals_peft_in_float32(base: Path, tmp_path: Path, lora: dict[str, Any]) -> None:
    adapter = tiny_adapter(base, tmp_path / "dora", use_dora=True, **lora)
    key = f"base_model.model.{Q}.lora_magnitude_vector"
    assert key in weights(adapter)  # as peft names it
    merge(base, [adapter], tmp_path / "out")
    merged, expected = weights(tmp_path / "out"), peft_merged(base, adapter)
    for name, values in expected.items():
        torch.testing.assert_close(merged[name], values, rtol=0, atol=1e-6)
    lengths = torch.linalg.vector_norm(merged[f"{Q}.weight"], dim=1)
    torch.testing.assert_close(lengths, weights(adapter)[key].abs())


def test_dora_is_fp64_rounded_once(tmp_path: Path) -> None:
    base = tiny_llama(tmp_path / "base", dtype="float16", hidden_size=256, intermediate_size=512)
    adapter = tiny_adapter(base, tmp_path / "dora", use_dora=True, target_modules=["q_proj"])
    merge(base, [adapter], tmp_path / "out")
    lora = {n: t.double() for n, t in weights(adapter).items()}
    a, b, m = (
        lora[f"base_model.model.{Q}.lora_{part}"]
        for part in ("A.weight", "B.weight", "magnitude_vector")
    )
    total = weights(base)[f"{Q}.weight"].double() + 2 * b @ a
    exact = total * (m / total.norm(dim=1))[:, None]
    assert torch.equal(weights(tmp_path / "out")[f"{Q}.weight"], nearest(exact, torch.float16))


def test_dora_is_merged_alone(base: Path, adapter: Path, tmp_path: Path) -> None:
    dora = tiny_adapter(base, tmp_path / "dora", use_dora=True)
    for order in ([dora, adapter], [adapter, dora]):
        with pytest.raises(TrainingError, match=r"dora is a DoRA adapter .*: merge it alone"):
            merge(base, order, tmp_path / "out")


def test_dora_on_embeddings_is_refused(base: Path, tmp_path: Path) -> None:
    dora = tiny_adapter(base, tmp_path / "dora", use_dora=True, target_modules=["embed_tokens"])
    with pytest.raises(TrainingError, match=r"DoRA is supported on linear layers only"):
        merge(base, [dora], tmp_path / "out")


@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("settings", [{}, {"lora_alpha": 3, "modules_to_save": ["lm_head"]}])
def test_adalora_equals_peft_in_float32(
    base: Path, tmp_path: Path, settings: dict[str, Any], trained: bool
) -> None:
    adapter = adalora(base, tmp_path / "ada", trained, **settings)
    pattern = json.loads((adapter / "adapter_config.json").read_text())["rank_pattern"]
    ranks = {sum(kept) for kept in (pattern or {"all": [True] * INIT_R}).values()}
    assert (len(ranks) > 1) == trained
    report = merge(base, [adapter], tmp_path / "out")
    merged, expected = weights(tmp_path / "out"), peft_merged(base, adapter)
    for name, values in expected.items():
        torch.testing.assert_close(merged[name], values, rtol=0, atol=1e-6)
    changed = [n for n, values in weights(base).items() if not torch.equal(values, merged[n])]
    assert len(changed) == report.changed > 5


def test_adalora_that_left_a_module_no_rank_leaves_its_weight(base: Path, tmp_path: Path) -> None:
    adapter = adalora(base, tmp_path / "ada")
    config = adapter / "adapter_config.json"
    pattern = json.loads(config.read_text())["rank_pattern"]
    edit_json(config, rank_pattern=pattern | {f"{Q}.lora_E": [False] * INIT_R})

    def cut(tensors: Tensors) -> None:
        for part, shape in (("A", (0, 32)), ("B", (32, 0)), ("E", (0, 1))):
            tensors[f"base_model.model.{Q}.lora_{part}"] = torch.zeros(shape)

    edit_weights(adapter / "adapter_model.safetensors", cut)
    merge(base, [adapter], tmp_path / "out")
    assert torch.equal(weights(tmp_path / "out")[f"{Q}.weight"], weights(base)[f"{Q}.weight"])


def test_adalora_adds_up_with_lora(base: Path, adapter: Path, tmp_path: Path) -> None:
    other = adalora(base, tmp_path / "ada")
    merge(base, [adapter, other], tmp_path / "out")
    start, merged = weights(base), weights(tmp_path / "out")
    one, two = peft_merged(base, adapter), peft_merged(base, other)
    for name, values in merged.items():
        expected = one[name] + two[name] - start[name]
        torch.testing.assert_close(values, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"peft_type": "LORA", "rank_pattern": {}}, "with lora_E"),
        ({"init_r": None}, "lacks init_r"),
        ({"init_r": 7, "rank_pattern": None}, "do not belong together"),
        ({"rank_pattern": {"q": 3}}, "true and false"),
        ({"lora_alpha": 0}, "lora_alpha must be above 0"),
    ],
)
def test_adalora_settings_that_do_not_fit_are_refused(
    base: Path, tmp_path: Path, settings: dict[str, Any], words: str
) -> None:
    adapter = adalora(base, tmp_path / "ada")
    edit_json(adapter / "adapter_config.json", **settings)
    with pytest.raises(TrainingError, match=words):
        merge(base, [adapter], tmp_path / "out")


def test_a_prefix_of_peft_s_goes_beside_unchanged_weights(base: Path, tmp_path: Path) -> None:
    from peft import PrefixTuningConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    config = PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    model.save_pretrained(tmp_path / "prefix")
    merge(base, [tmp_path / "prefix"], tmp_path / "out")
    cache = model.get_prompt(batch_size=1)
    stored = load_file(tmp_path / "out/prefix/prefix.safetensors")
    for number, layer in enumerate(cache.layers):
        assert torch.equal(stored[f"layers.{number}.key"], layer.keys[0])
        assert torch.equal(stored[f"layers.{number}.value"], layer.values[0])
    assert len(stored) == 2 * len(cache.layers)
    for name, tensor in weights(base).items():
        assert torch.equal(weights(tmp_path / "out")[name], tensor)


def test_prompt_tuning_is_refused(base: Path, tmp_path: Path) -> None:
    from peft import PromptTuningConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    model.save_pretrained(tmp_path / "prompt")
    with pytest.raises(TrainingError, match=r"PROMPT_TUNING .* train a prefix"):
        merge(base, [tmp_path / "prompt"], tmp_path / "out")
