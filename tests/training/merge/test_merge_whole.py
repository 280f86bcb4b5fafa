import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.models import edit_json, edit_weights, tiny_adapter, tiny_llama, to_bin, weights
from tests.training.merge.exact import Tensors, merged_exactly, nearest
from training.errors import TrainingError
from training.merge.job import WeightsFormat, merge

EMBEDDINGS, HEAD = "model.embed_tokens.weight", "lm_head.weight"
BOTH = ["embed_tokens", "lm_head"]
FEW_FIELDS = ("peft_type", "r", "lora_alpha", "target_modules", "modules_to_save", "bias")


def trained(adapter: Path, module: str) -> torch.Tensor:
    """Return the trained copy of a whole module's weight."""
    return weights(adapter)[f"base_model.model.{module}.modules_to_save.weight"]


def with_tokenizer(adapter: Path, tokens: int) -> Path:
    vocabulary = {f"t{number}": number for number in range(tokens)}
    (adapter / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary}}))
    return adapter


def as_peft_0_2_wrote_it(adapter: Path) -> None:
    """Few fields, adapter_model.bin, and only `modules_to_save` as the name of whole modules."""
    path = adapter / "adapter_config.json"
    config = {key: json.loads(path.read_text())[key] for key in FEW_FIELDS}
    old = {"enable_lora": None, "merge_weights": False, "fan_in_fan_out": False}
    path.write_text(json.dumps(config | old))

    def rename(tensors: Tensors) -> None:
        for module in ("model.embed_tokens", "lm_head"):
            for copy in ("", "original_module."):
                tensors.pop(f"base_model.model.{module}.{copy}weight")

    edit_weights(adapter / "adapter_model.safetensors", rename)
    to_bin(adapter)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("shards", ["5GB", "100KB"])
def test_two_adapters_that_grow_the_vocabulary_give_fp64_rounded_once(
    tmp_path: Path, dtype: str, shards: str
) -> None:
    sizes = {"vocab_size": 100, "hidden_size": 128, "intermediate_size": 344}
    base = tiny_llama(tmp_path / "base", dtype=dtype, max_shard_size=shards, **sizes)
    first = tiny_adapter(base, tmp_path / "first", 1, rows=150, modules_to_save=BOTH)
    second = tiny_adapter(base, tmp_path / "second", 2, rows=151, modules_to_save=BOTH)
    with_tokenizer(first, 150)
    with_tokenizer(second, 151)
    truth = merged_exactly(base, [first, second], scale=8 / 4)
    truth[EMBEDDINGS] = trained(second, "model.embed_tokens").double()
    truth[HEAD] = trained(second, "lm_head").double()
    as_peft_0_2_wrote_it(first)
    if shards != "5GB":
        to_bin(base)
    report = merge(base, [first, second], tmp_path / "out", WeightsFormat(max_shard_size=200_000))
    merged = weights(tmp_path / "out")
    assert merged.keys() == truth.keys()
    for name, exact in truth.items():
        expected = nearest(exact, getattr(torch, dtype))
        assert torch.equal(merged[name], expected), name
    assert json.loads((tmp_path / "out/config.json").read_text())["vocab_size"] == 151
    assert len(json.loads((tmp_path / "out/tokenizer.json").read_text())["model"]["vocab"]) == 151
    assert report.changed == 14 + 2
    assert sum("is that of second" in note for note in report.notes) == 2  # embeddings, head


def test_of_three_spellings_the_trained_one_is_taken(tmp_path: Path) -> None:
    base = tiny_llama(tmp_path / "base")
    adapter = tiny_adapter(base, tmp_path / "adapter", rows=70, modules_to_save=BOTH)
    keys = weights(adapter)
    for copy in ("", "modules_to_save.", "original_module."):
        assert f"base_model.model.lm_head.{copy}weight" in keys  # as peft writes it
    head = trained(adapter, "lm_head")
    assert not torch.equal(keys["base_model.model.lm_head.original_module.weight"], head)
    merge(base, [adapter], tmp_path / "out")
    assert torch.equal(weights(tmp_path / "out")[HEAD], head)
    rename_adapter = "base_model.model.lm_head.modules_to_save.default.weight"

    def rename(tensors: Tensors) -> None:
        tensors[rename_adapter] = tensors.pop("base_model.model.lm_head.modules_to_save.weight")
        tensors["base_model.model.lm_head.weight"] += 1

    edit_weights(adapter / "adapter_model.safetensors", rename)
    merge(base, [adapter], tmp_path / "default")
    assert torch.equal(weights(tmp_path / "default")[HEAD], head)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(
    "lora",
    [
        {"target_modules": ["q_proj", *BOTH]},
        {"target_modules": ["q_proj", "embed_tokens"]},
        {"target_modules": ["q_proj", "lm_head"]},
        {"target_modules": ["q_proj", *BOTH], "rows": 70},
        {"modules_to_save": ["embed_tokens"]},
        {"modules_to_save": ["lm_head"]},
        {"modules_to_save": BOTH},
        {"modules_to_save": ["norm", "input_layernorm"]},
        {"modules_to_save": ["embed_tokens"], "rows": 70},
        {"modules_to_save": BOTH, "rows": 70, "ensure_weight_tying": True},
        {"target_modules": ["q_proj", "embed_tokens"], "ensure_weight_tying": True},
        {"rows": 70},
    ],
)
def test_answers_as_base_with_adapter(tmp_path: Path, lora: dict[str, Any], tied: bool) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = tiny_llama(tmp_path / "base", tie_word_embeddings=tied)
    adapter = tiny_adapter(base, tmp_path / "adapter", **lora)
    merge(base, [adapter], tmp_path / "out")
    unmerged = AutoModelForCausalLM.from_pretrained(base)
    if "rows" in lora:
        unmerged.resize_token_embeddings(lora["rows"], mean_resizing=False)
    ids = torch.arange(1, 40)[None]
    with torch.no_grad():
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out")(ids).logits
        expected = PeftModel.from_pretrained(unmerged, adapter)(ids).logits
    torch.testing.assert_close(merged, expected, rtol=0, atol=2e-5)


def test_a_head_of_its_own_in_a_tied_base_is_told(tmp_path: Path) -> None:
    base = tiny_llama(tmp_path / "base", tie_word_embeddings=True)
    adapter = tiny_adapter(base, tmp_path / "adapter", target_modules=["lm_head"])
    report = merge(base, [adapter], tmp_path / "out")
    assert json.loads((tmp_path / "out/config.json").read_text())["tie_word_embeddings"] is False
    assert any("tie_word_embeddings set to false" in note for note in report.notes)
    assert torch.equal(weights(tmp_path / "out")[EMBEDDINGS], weights(base)[EMBEDDINGS])
    alike = tiny_adapter(base, tmp_path / "alike", rows=70)
    report = merge(base, [alike], tmp_path / "tied")
    assert HEAD not in weights(tmp_path / "tied")
    assert not any("tie" in note for note in report.notes)


def test_tensors_saved_along_untrained_do_not_undo_earlier_adapters(tmp_path: Path) -> None:
    base = tiny_llama(tmp_path / "base")
    first = tiny_adapter(base, tmp_path / "first", modules_to_save=BOTH)
    second = tiny_adapter(base, tmp_path / "second", target_modules=["q_proj"])
    along = {f"base_model.model.{name}": values for name, values in weights(base).items()}
    along = {name: values for name, values in along.items() if "_tokens" in name or "head" in name}
    edit_weights(second / "adapter_model.safetensors", lambda t: t.update(along))
    merge(base, [first, second], tmp_path / "out")
    expected = weights(first)["base_model.model.lm_head.weight"]
    assert torch.equal(weights(tmp_path / "out")[HEAD], expected)


@pytest.mark.parametrize("bias", ["all", "lora_only"])
def test_trained_biases_replace_those_of_the_base(tmp_path: Path, bias: str) -> None:
    from tests.training.merge.test_merge import peft_merged

    base = tiny_llama(tmp_path / "base", attention_bias=True)
    adapter = tiny_adapter(base, tmp_path / "adapter", bias=bias, target_modules=["q_proj"])
    merge(base, [adapter], tmp_path / "out")
    merged, expected = weights(tmp_path / "out"), peft_merged(base, adapter)
    name = "model.layers.0.self_attn.q_proj.bias"
    assert not torch.equal(merged[name], weights(base)[name])
    for key, values in expected.items():
        torch.testing.assert_close(merged[key], values, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop("base_model.model.lm_head.weight"), "lacks lm_head"),
        (
            lambda t: t.update({"base_model.model.lm_heads.weight": torch.ones(2)}),
            "matches nothing",
        ),
        (lambda t: t.update({"x.weight": torch.ones(2)}), "not a LoRA pair nor a whole tensor"),
        (lambda t: t.update({"base_model.model.lm_head.weight": torch.ones(64, 31)}), "(64, 31)"),
        (lambda t: t.update({"base_model.model.lm_head.weight": torch.ones(65, 32)}), "hold both"),
        (
            lambda t: t.update({"base_model.model.lm_head.weight": torch.ones(64, 32).int()}),
            "dtype I32",
        ),
        (lambda t: t["base_model.model.lm_head.weight"][3].fill_(torch.nan), "NaN"),
    ],
)
def test_whole_tensors_that_do_not_fit_are_refused(
    tmp_path: Path, change: Callable[[Tensors], Any], words: str
) -> None:
    base = tiny_llama(tmp_path / "base")
    adapter = tiny_adapter(base, tmp_path / "adapter", modules_to_save=["lm_head"])
    edit_weights(adapter / "adapter_model.safetensors", change)
    with pytest.raises(TrainingError) as error:
        merge(base, [adapter], tmp_path / "out")
    assert words in str(error.value)
    assert str(adapter) in str(error.value) or words == "hold both"
    assert not (tmp_path / "out").exists()


def test_the_tokenizer_must_fit_the_resulting_embeddings(tmp_path: Path) -> None:
    base = with_tokenizer(tiny_llama(tmp_path / "base"), 64)
    adapter = tiny_adapter(base, tmp_path / "adapter", rows=70, modules_to_save=BOTH)
    merge(base, [with_tokenizer(adapter, 70)], tmp_path / "out")
    with_tokenizer(adapter, 71)
    with pytest.raises(TrainingError, match="needs 71 embedding rows, the model has 70"):
        merge(base, [adapter], tmp_path / "again")


def test_a_sentencepiece_tokenizer_counts_with_its_added_tokens(tmp_path: Path) -> None:
    import sentencepiece

    base = tiny_llama(tmp_path / "base", vocab_size=300)
    adapter = tiny_adapter(base, tmp_path / "adapter")
    text = tmp_path / "text"
    text.write_text("今天天气很好\n" * 50, encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(text),
        model_prefix=str(adapter / "tokenizer"),
        vocab_size=275,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        hard_vocab_limit=False,
        minloglevel=3,
    )
    merge(base, [adapter], tmp_path / "out")
    made = json.loads((tmp_path / "out/tokenizer.json").read_text())
    assert len(made["model"]["vocab"]) <= 275
    assert not (tmp_path / "out/tokenizer.model").exists()
    (adapter / "added_tokens.json").write_text('{"[PAD]": 300}')
    with pytest.raises(TrainingError, match="needs 301 embedding rows"):
        merge(base, [adapter], tmp_path / "again")


def test_a_tied_base_as_bin_stays_tied(tmp_path: Path) -> None:
    base = tiny_llama(tmp_path / "base", tie_word_embeddings=True)
    adapter = tiny_adapter(base, tmp_path / "adapter")
    edit_json(base / "config.json", tie_word_embeddings=True)
    edit_weights(  # torch.save keeps both names of the shared tensor
        base / "model.safetensors", lambda t: t.update({HEAD: t[EMBEDDINGS].clone()})
    )
    merge(to_bin(base), [to_bin(adapter)], tmp_path / "out")
    assert HEAD not in weights(tmp_path / "out")
