"""Every setting of peft's LoraConfig: merged to what was trained, or refused with what to do."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel
from transformers import AutoModelForCausalLM

from tests.models import edit_json, tiny_adapter, tiny_llama, weights
from training.errors import TrainingError
from training.merge.job import WeightsFormat, merge
from training.merge.peft_settings import HARMLESS, HONOURED, REFUSED

IDS = torch.arange(3, 43)[None]
TOKENS = {"trainable_token_indices": {"embed_tokens": [5, 9, 30]}, "target_modules": ["q_proj"]}
MERGED: dict[str, dict[str, Any]] = {
    "r": {"r": 3},
    "target_modules": {"target_modules": r".*\.layers\.1\..*(q|up)_proj"},
    "exclude_modules": {"exclude_modules": ["o_proj"]},
    "lora_alpha": {"lora_alpha": 5},
    "lora_dropout": {"lora_dropout": 0.5},
    "fan_in_fan_out": {"fan_in_fan_out": True},
    "bias": {"bias": "all"},
    "use_rslora": {"use_rslora": True},
    "modules_to_save": {"modules_to_save": ["lm_head", "norm"]},
    "init_lora_weights": {"init_lora_weights": "orthogonal"},
    "layers_to_transform": {"layers_to_transform": [1], "layers_pattern": "layers"},
    "rank_pattern": {"rank_pattern": {"q_proj": 2}},
    "alpha_pattern": {"alpha_pattern": {"q_proj": 2}},
    "trainable_token_indices": TOKENS,
    "use_dora": {"use_dora": True},
    "lora_bias": {"lora_bias": True},
    "ensure_weight_tying": {"ensure_weight_tying": True, "modules_to_save": ["embed_tokens"]},
}
VALUES: dict[str, Any] = {
    "target_parameters": ["experts.down_proj"],
    "layer_replication": [[0, 2], [0, 2]],
    "alora_invocation_tokens": [1, 2],
    "use_qalora": True,
    "use_bdlora": {"nblocks": 2},
    "velora_config": {"num_groups": 4},
    "monteclora_config": {"num_samples": 2},
    "kasa_config": {"beta": 1.0},
    "arrow_config": {"top_k": 2},
    "megatron_config": {"tensor_model_parallel_size": 2},
}
BIASES: dict[str, Any] = {"attention_bias": True, "mlp_bias": True}


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        values: torch.Tensor = model(input_ids=IDS).logits
    return values


def loaded(path: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()


def agree(base: Path, adapter: Path, merged: Path) -> None:
    """The merged model answers as base and adapter, and otherwise than the base."""
    expected = logits(PeftModel.from_pretrained(loaded(base), adapter).eval())
    torch.testing.assert_close(logits(loaded(merged)), expected, rtol=0, atol=1e-4)
    assert (logits(loaded(base)) - expected).abs().max() > 1e-2


def test_the_tables_name_every_setting_of_peft_s_config() -> None:
    fields = {field.name for field in dataclasses.fields(LoraConfig)}
    assert fields <= HONOURED | HARMLESS | REFUSED.keys()
    assert not REFUSED.keys() & (HONOURED | HARMLESS)
    assert REFUSED.keys() == VALUES.keys()
    named = MERGED.keys() | VALUES.keys()
    # how peft loads, and what an initialisation was computed with
    assert fields - named == {
        *("task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path"),
        *("revision", "inference_mode", "runtime_config", "megatron_core", "layers_pattern"),
        *("loftq_config", "eva_config", "corda_config", "lora_ga_config", "qalora_group_size"),
    }


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("setting", MERGED)
def test_a_setting_that_merging_follows(tmp_path: Path, setting: str, tied: bool) -> None:
    base = tiny_llama(tmp_path / "base", tie_word_embeddings=tied, **BIASES)
    adapter = tiny_adapter(base, tmp_path / "adapter", std=0.2, **MERGED[setting])
    merge(base, [adapter], tmp_path / "out")
    agree(base, adapter, tmp_path / "out")


@pytest.mark.parametrize("setting", VALUES)
def test_a_setting_that_merging_does_not_follow_is_refused_with_a_remedy(
    base: Path, adapter: Path, tmp_path: Path, setting: str
) -> None:
    edit_json(adapter / "adapter_config.json", **{setting: VALUES[setting]})
    with pytest.raises(TrainingError) as error:
        merge(base, [adapter], tmp_path / "out")
    assert f"{adapter}/adapter_config.json: {setting} is not" in str(error.value)
    assert REFUSED[setting] in str(error.value)


@pytest.mark.parametrize("init", ["pissa", "pissa_niter_4", "olora"])
def test_an_initialisation_that_changes_the_base_is_merged_where_peft_stored_the_difference(
    tmp_path: Path, init: str
) -> None:
    base = tiny_llama(tmp_path / "base")
    settings = LoraConfig(
        r=4, lora_alpha=4, target_modules=["q_proj", "up_proj"], init_lora_weights=init
    )
    model = PeftModel(loaded(base), settings)
    model.peft_config[
        "default"
    ].init_lora_weights = True  # as peft's guide for the conversion has it
    model.save_pretrained(tmp_path / "start")
    model.peft_config["default"].init_lora_weights = init
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data += 0.1 * torch.randn_like(parameter)
    expected = logits(model.eval())
    model.save_pretrained(tmp_path / "raw")
    model.save_pretrained(
        tmp_path / "plain", path_initial_model_for_weight_conversion=str(tmp_path / "start")
    )
    merge(base, [tmp_path / "plain"], tmp_path / "out")
    torch.testing.assert_close(logits(loaded(tmp_path / "out")), expected, rtol=0, atol=1e-4)
    with pytest.raises(TrainingError, match="path_initial_model_for_weight_conversion"):
        merge(base, [tmp_path / "raw"], tmp_path / "raw-merged")


@pytest.mark.parametrize("targets", [["c_attn", "c_proj", "c_fc"], ["c_proj", "wte"]])
@pytest.mark.parametrize("flag", [True, False, None])
def test_transposed_weights_are_told_by_the_class_and_not_by_the_flag(
    tmp_path: Path, targets: list[str], flag: bool | None
) -> None:
    """GPT-2's weights are [in, out], some of them square; peft's flag is that of its last layer."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    GPT2LMHeadModel(
        GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=64)
    ).save_pretrained(tmp_path / "base")
    adapter = tiny_adapter(tmp_path / "base", tmp_path / "adapter", std=0.3, target_modules=targets)
    if flag is not None:
        edit_json(adapter / "adapter_config.json", fan_in_fan_out=flag)
    merge(tmp_path / "base", [adapter], tmp_path / "out")
    edit_json(adapter / "adapter_config.json", fan_in_fan_out=True)
    agree(tmp_path / "base", adapter, tmp_path / "out")


def test_trained_tokens_of_two_adapters(base: Path, tmp_path: Path) -> None:
    one, two = (
        tiny_adapter(
            *(base, tmp_path / name),
            seed=seed,
            target_modules=["q_proj"],
            trainable_token_indices=ids,
        )
        for name, seed, ids in (("one", 1, [3, 4]), ("two", 2, [4, 60]))
    )
    report = merge(base, [one, two], tmp_path / "out", WeightsFormat("bfloat16"))
    start, merged = (weights(d)["model.embed_tokens.weight"] for d in (base, tmp_path / "out"))
    key = "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta"
    first, second = weights(one)[key], weights(two)[key]
    expected = start.clone()
    expected[3], expected[4], expected[60] = first[0], second[0], second[1]
    assert torch.equal(merged, expected.bfloat16())
    assert report.changed == 3


def test_trained_tokens_that_are_the_base_s_change_nothing(base: Path, tmp_path: Path) -> None:
    adapter = tiny_adapter(
        base, tmp_path / "a", std=0, target_modules=["q_proj"], trainable_token_indices=[5, 9]
    )
    with pytest.raises(TrainingError, match="changes nothing"):
        merge(base, [adapter], tmp_path / "out")


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        ([5, 64], "token 64 .* has no row"),
        ([5], "for 1 tokens"),
        ("5", "must be a list of token ids"),
        ({"embed_tokens": [1.5, 2]}, "must be a list of token ids"),
        ({"lm_head": [1, 2]}, "for 0 tokens"),
    ],
)
def test_trained_tokens_that_do_not_fit_are_refused(
    base: Path, tmp_path: Path, ids: Any, words: str
) -> None:
    adapter = tiny_adapter(
        base, tmp_path / "a", target_modules=["q_proj"], trainable_token_indices=[1, 2]
    )
    edit_json(adapter / "adapter_config.json", trainable_token_indices=ids)
    with pytest.raises(TrainingError, match=words):
        merge(base, [adapter], tmp_path / "out")


def test_trained_tokens_and_a_low_rank_change_of_the_same_rows_are_refused(
    base: Path, tmp_path: Path
) -> None:
    tokens = tiny_adapter(
        base, tmp_path / "t", target_modules=["q_proj"], trainable_token_indices=[1, 2]
    )
    low_rank = tiny_adapter(base, tmp_path / "l", target_modules=["embed_tokens"])
    for order in ([tokens, low_rank], [low_rank, tokens]):
        with pytest.raises(TrainingError, match="which of them counts is not defined"):
            merge(base, order, tmp_path / "out")


@pytest.mark.parametrize(
    "ids", [{"lm_head": [5]}, {"embed_tokens": [5], "lm_head": [9]}, {"embed_tokens": [5, 7]}]
)
def test_trained_tokens_of_one_end_of_a_tied_model_go_where_they_were_trained(
    tmp_path: Path, ids: dict[str, list[int]]
) -> None:
    base = tiny_llama(tmp_path / "base", tie_word_embeddings=True)
    adapter = tiny_adapter(
        *(base, tmp_path / "adapter"),
        std=0.3,
        target_modules=["q_proj"],
        trainable_token_indices=ids,
    )
    merge(base, [adapter], tmp_path / "out")
    agree(base, adapter, tmp_path / "out")


def test_transposed_weights_of_an_unknown_class_are_refused(
    base: Path, adapter: Path, tmp_path: Path
) -> None:
    edit_json(base / "config.json", model_type="jais")
    merge(base, [adapter], tmp_path / "plain")
    edit_json(adapter / "adapter_config.json", fan_in_fan_out=True)
    with pytest.raises(TrainingError, match="transformers does not know"):
        merge(base, [adapter], tmp_path / "out")


def test_lora_bias_on_layers_without_a_bias_is_refused(base: Path, tmp_path: Path) -> None:
    adapter = tiny_adapter(base, tmp_path / "a", lora_bias=True, target_modules=["q_proj"])
    with pytest.raises(TrainingError, match=r"q_proj.bias matches nothing in the base"):
        merge(base, [adapter], tmp_path / "out")
