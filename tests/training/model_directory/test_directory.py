"""What a checkpoint holds: names on disk, ties and contradictions, one answer for every command."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoConfig, AutoModelForCausalLM

import training.chatglm  # noqa: F401 - so that ChatGLM-6B is known
from tests.chatglm import converted_base
from tests.families import FAMILIES, SIZES, write_family
from tests.models import edit_json, edit_weights, tiny_adapter, tiny_llama
from training.convert.__main__ import main as convert
from training.errors import TrainingError
from training.merge.__main__ import main as merge
from training.merge.job import WeightsFormat
from training.merge.job import merge as merge_into
from training.model_directory.architecture import read_architecture
from training.model_directory.directory import PLAIN, read_model_directory
from training.train.__main__ import main as train

IDS = torch.arange(3, 33)[None]
HEAD, EMBEDDINGS = "lm_head.weight", "model.embed_tokens.weight"


@pytest.mark.parametrize("kind", PLAIN)
def test_plain_types_are_as_their_classes_are(tmp_path: Path, kind: str) -> None:
    """Their names are taken as they are, and ties from a table: transformers says the same."""
    if kind == "chatglm_6b":
        base = converted_base(tmp_path / "base")
    else:
        base = tmp_path / "base"
        config = AutoConfig.for_model(kind, **SIZES, vocab_size=64, pad_token_id=0)
        AutoModelForCausalLM.from_config(config).save_pretrained(base)
    config = json.loads((base / "config.json").read_text())
    config.pop("tie_word_embeddings", None)
    (base / "config.json").write_text(json.dumps(config))
    names = read_model_directory(base).tensors
    architecture = read_architecture(base, config, names)
    assert architecture
    assert architecture.tied == PLAIN[kind]
    assert all(name == stored for name, stored in architecture.stored.items())
    assert not architecture.fused
    assert not architecture.transposed


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("whole", [None, "embeddings", "lm_head"])
def test_every_family_s_adapter_is_merged_to_what_was_trained(
    tmp_path: Path, family: str, whole: str | None
) -> None:
    """As peft loads it beside the base, with one end of the model trained whole or none."""
    base = write_family(family, tmp_path / "base")
    targets: Any = FAMILIES[family].targets
    targets = targets if targets == "all-linear" else targets.strip("[]").split(", ")
    embeddings = "word_embeddings" if family == "bloom" else "embed_tokens"
    saved = whole and [whole.replace("embeddings", embeddings)]
    lora = {"target_modules": targets, "modules_to_save": saved, "task_type": "CAUSAL_LM"}
    adapter = tiny_adapter(base, tmp_path / "adapter", std=0.1, **lora)
    merge_into(base, [adapter], tmp_path / "out")
    with torch.no_grad():
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        expected = PeftModel.from_pretrained(model, adapter).eval()(input_ids=IDS).logits
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
        found = merged.eval()(input_ids=IDS).logits
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-3 * expected.abs().max().item())


@pytest.mark.parametrize("kind", ["gemma3", "qwen3_5"])
def test_the_text_weights_of_a_multimodal_checkpoint_are_found_by_its_own_names(
    tmp_path: Path, kind: str
) -> None:
    text = SIZES | {"vocab_size": 64}
    vision = {"hidden_size": 32, "intermediate_size": 64}
    if kind == "gemma3":
        vision |= {
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 28,
            "patch_size": 14,
        }
        more = {
            "mm_tokens_per_image": 4,
            "image_token_index": 5,
            "boi_token_index": 6,
            "eoi_token_index": 7,
        }
        from transformers import Gemma3ForConditionalGeneration as Model
    else:
        text |= {"linear_num_key_heads": 2, "linear_num_value_heads": 2, "num_hidden_layers": 4}
        text |= {"linear_key_head_dim": 16, "linear_value_head_dim": 16}
        vision |= {"depth": 1, "num_heads": 2, "out_hidden_size": 64, "patch_size": 14}
        more = {"image_token_id": 5, "video_token_id": 6, "vision_start_token_id": 7}
        from transformers import Qwen3_5ForConditionalGeneration as Model
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, text_config=text, vision_config=vision, **more)
    Model(config).save_pretrained(tmp_path / "base")
    adapter = tiny_adapter(
        tmp_path / "base", tmp_path / "adapter", std=0.3, target_modules=["q_proj", "v_proj"]
    )
    report = merge_into(tmp_path / "base", [adapter], tmp_path / "out")
    assert report.changed >= 2
    with torch.no_grad():
        base = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
        expected = PeftModel.from_pretrained(base, adapter).eval()(input_ids=IDS).logits
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
        torch.testing.assert_close(merged(input_ids=IDS).logits, expected, rtol=0, atol=1e-4)


def refusal(command: Any, arguments: list[object], capsys: pytest.CaptureFixture[str]) -> str:
    assert command([str(argument) for argument in arguments]) == 2
    told = capsys.readouterr().err
    assert "Traceback" not in told
    return told


@pytest.mark.parametrize("silent", [False, True])
def test_a_head_that_the_config_ties_away_is_refused_by_every_command(
    base: Path, adapter: Path, tmp_path: Path, silent: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    edit_json(base / "config.json", tie_word_embeddings=True)
    if silent:  # Gemma's class ties where config.json says nothing
        write_family("gemma2", tmp_path / "gemma")
        base = tmp_path / "gemma"
        edit_weights(
            base / "model.safetensors", lambda t: t.update({HEAD: torch.randn_like(t[EMBEDDINGS])})
        )
        adapter = tiny_adapter(base, tmp_path / "other", target_modules=["q_proj"])
    out = tmp_path / "out"
    (tmp_path / "rows.json").write_text('{"input": "a", "target": "b"}')
    recipe = [
        f"model={base}",
        f"output={out}",
        f"data.train={tmp_path}/rows.json",
        "data.eval=null",
    ]
    commands: list[tuple[Any, list[object]]] = [
        (merge, ["--base", base, "--adapter", adapter, "--output", out]),
        (convert, ["hf", "--input", base, "--output", out]),
        (train, ["--config", "llama_lora", *recipe, "data.eval=null"]),
    ]
    for command, arguments in commands:
        told = refusal(command, arguments, capsys)
        assert f"{HEAD} differs from {EMBEDDINGS}" in told
        assert "set tie_word_embeddings to false there" in told
    assert not out.exists()


def test_an_untied_model_without_a_head_is_refused_if_it_is_for_text(
    base: Path, adapter: Path, tmp_path: Path
) -> None:
    edit_weights(base / "model.safetensors", lambda t: t.pop(HEAD))
    with pytest.raises(TrainingError, match="has no output head"):
        merge_into(base, [adapter], tmp_path / "out")
    edit_json(base / "config.json", architectures=["MistralModel"])  # as for embeddings of texts
    assert merge_into(base, [adapter], tmp_path / "out").changed == 14


@pytest.mark.parametrize("nested", [True, False])
def test_a_multimodal_type_without_a_class_for_text_goes_by_its_config(
    base: Path, adapter: Path, tmp_path: Path, nested: bool
) -> None:
    text = {"tie_word_embeddings": False} if nested else {}
    edit_json(base / "config.json", model_type="mistral3_of_tomorrow", text_config=text)
    assert merge_into(base, [adapter], tmp_path / "out").changed == 14


def test_an_unknown_type_must_say_whether_it_ties(
    base: Path, adapter: Path, tmp_path: Path
) -> None:
    config = json.loads((base / "config.json").read_text())
    del config["tie_word_embeddings"]
    (base / "config.json").write_text(json.dumps(config | {"model_type": "baichuan"}))
    with pytest.raises(TrainingError, match=r"does not know the model type 'baichuan'.*set tie_"):
        merge_into(base, [adapter], tmp_path / "out")
    edit_json(base / "config.json", tie_word_embeddings=False)
    assert merge_into(base, [adapter], tmp_path / "out").changed == 14


@pytest.mark.parametrize("name", ["model.norm.weight", "model.layers.1.mlp.up_proj.weight", HEAD])
def test_weights_that_would_begin_at_random_are_refused_before_training(
    recipe: Path, base_model: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    base = Path(shutil.copytree(base_model, tmp_path / "base"))
    edit_weights(base / "model.safetensors", lambda t: t.pop(name))
    told = refusal(train, ["--config", recipe, f"model={base}"], capsys)
    assert name in told
    assert str(base) in told


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["lora.targets=all-linear"], "target_parameters is not supported by merging"),
        (["lora.targets=[gate_proj, up_proj, down_proj]"], "lora.targets=[q_proj, k_proj"),
        (["lora=null", "prefix={tokens: 4}"], "prefixes are served for LLaMA and ChatGLM-6B only"),
        (["lora.targets=[embed_tokens]", "lora.dora=true"], "DoRA is supported on linear layers"),
    ],
)
def test_what_could_not_be_merged_is_refused_before_training(
    tmp_path: Path, overrides: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    base = write_family("qwen3-moe", tmp_path / "base")
    (tmp_path / "rows.json").write_text('{"input": "a", "target": "b"}')
    told = refusal(
        train,
        ["--config", "llama_lora", f"model={base}", f"output={tmp_path}/out", "template=null",
         f"data.train={tmp_path}/rows.json", "data.eval=null", "lora.dropout=0", *overrides],
        capsys,
    )  # fmt: skip
    assert words in told
    assert not list((tmp_path / "out.run").glob("checkpoint-*"))


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_a_whole_file_goes_before_an_index_from_an_earlier_save(
    adapter: Path, tmp_path: Path, kind: str
) -> None:
    from tests.models import to_bin, weights

    base = tiny_llama(tmp_path / "base", max_shard_size="20KB")
    if kind == "bin":
        to_bin(base)
    other = tiny_llama(tmp_path / "other", seed=5)
    expected = weights(other)["model.norm.weight"]
    if kind == "bin":
        to_bin(other)
    (single,) = [path for path in other.iterdir() if path.suffix in (".safetensors", ".bin")]
    single.rename(base / single.name)
    report = merge_into(base, [adapter], tmp_path / "out", WeightsFormat("float32"))
    assert torch.equal(weights(tmp_path / "out")["model.norm.weight"], expected)
    told = [note for note in report.notes if "from before it was saved again" in note]
    assert len(told) == (kind == "safetensors")


def test_further_files_beside_numbered_shards_are_fine(adapter: Path, tmp_path: Path) -> None:
    base = tiny_llama(tmp_path / "base", max_shard_size="20KB")
    path = base / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    places = [*index["weight_map"].values()]
    file = max(places, key=places.count)
    others = [each for each, place in index["weight_map"].items() if place == file]
    name = others[0]
    (base / file).rename(base / "mtp.safetensors")
    (base / file).write_bytes((base / "mtp.safetensors").read_bytes())
    edit_weights(base / file, lambda t: t.pop(name))
    edit_weights(base / "mtp.safetensors", lambda t: [t.pop(n) for n in others if n != name])
    index["weight_map"][name] = "mtp.safetensors"
    path.write_text(json.dumps(index))
    assert merge_into(base, [adapter], tmp_path / "out").changed == 14


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m.pop("model.norm.weight"), "does not list model.norm.weight"),
        (
            lambda m: [m.pop(n) for n, f in [*m.items()] if f.startswith("model-00002")],
            r"names \d of the \d files",
        ),
        (lambda m: m.update({"model.norm.weight": "../x.safetensors"}), "files beside it"),
        (lambda m: m.update({"model.norm.weight": 5}), "files beside it"),
    ],
)
def test_an_incomplete_index_is_refused(
    adapter: Path, tmp_path: Path, change: Any, words: str
) -> None:
    base = tiny_llama(tmp_path / "base", max_shard_size="20KB")
    path = base / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    change(index["weight_map"])
    path.write_text(json.dumps(index))
    with pytest.raises(TrainingError, match=words):
        merge_into(base, [adapter], tmp_path / "out")
