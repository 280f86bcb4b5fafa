import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from tests.models import edit_json, edit_weights, weights
from tests.training.convert.chatglm_release import (
    BASE,
    GOLDEN,
    TABLES,
    TOKEN_IDS,
    copy_base,
    write_bins,
    write_release,
)
from training.convert.__main__ import main
from training.convert.chatglm.conversion import convert_chatglm
from training.errors import TrainingError

Tensors = dict[str, torch.Tensor]
CONFIG = json.loads((BASE / "config.json").read_text())
LAYER = "transformer.layers.0."


def assert_same(one: Tensors, other: Tensors) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(values, other[name]) for name, values in one.items())


def kept() -> Tensors:
    return {name: t for name, t in weights(BASE).items() if not name.endswith("inv_freq")}


def test_the_golden_checkpoint_keeps_every_bit_and_name(tmp_path: Path) -> None:
    report = convert_chatglm(BASE, tmp_path / "out", max_shard_size=300_000)
    assert_same(weights(tmp_path / "out"), kept())
    assert (report.tensors, report.notes) == (len(kept()), [])
    assert report.files == len(list((tmp_path / "out").glob("*.safetensors"))) > 1
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config == {
        "architectures": ["ChatGLM6BForConditionalGeneration"],
        "model_type": "chatglm_6b",
        "vocab_size": 640,
        "hidden_size": 128,
        "inner_hidden_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "layernorm_epsilon": 1e-05,
        "max_position_embeddings": 1024,
        "tie_word_embeddings": False,
        "dtype": "float32",
        **{key: CONFIG[key] for key in TOKEN_IDS},
    }
    generation = json.loads((tmp_path / "out/generation_config.json").read_text())
    assert generation == {"bos_token_id": 89, "eos_token_id": 90, "pad_token_id": 3}
    told = json.loads((tmp_path / "out/provenance.json").read_text())
    assert (told["base"], told["converted_from"]) == ({"name": "base"}, "ChatGLM-6B")


def test_the_hubs_form_becomes_the_same_files_and_none_of_its_code_runs(tmp_path: Path) -> None:
    hub = write_release(tmp_path / "base")
    assert len(list(hub.glob("*.bin"))) == 3
    convert_chatglm(hub, tmp_path / "out")
    convert_chatglm(BASE, tmp_path / "expected")
    written = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert written == {path.name: path.read_bytes() for path in (tmp_path / "expected").iterdir()}
    assert not (hub / "TRACE").exists()
    assert not any(name.endswith((".py", ".bin")) for name in written)
    assert not any(b"auto_map" in content for content in written.values())


@pytest.mark.parametrize("told", [True, False])
def test_rows_and_ids_of_image_tokens_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: bool
) -> None:
    hub = write_release(tmp_path / "base", images=50)
    if not told:  # the first files give the number nowhere but in vocab_size, 150,528 then
        (hub / "tokenizer_config.json").unlink()
        monkeypatch.setattr("training.convert.chatglm.checkpoint.FIRST_VOCABULARY", 690)
        monkeypatch.setattr("training.convert.chatglm.checkpoint.IMAGES", 50)
    report = convert_chatglm(hub, tmp_path / "out")
    assert_same(weights(tmp_path / "out"), kept())
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["vocab_size"] == 640
    assert {key: config[key] for key in TOKEN_IDS} == {key: CONFIG[key] for key in TOKEN_IDS}
    assert report.notes == ["the rows of 50 image tokens were left out"]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    expected = json.loads((GOLDEN / "expected_base.json").read_text())["prompts"][4]
    assert tokenizer.encode(expected["prompt"]) == expected["input_ids"]


def test_image_tokens_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    hub = write_release(tmp_path / "base", images=50)
    edit_json(hub / "tokenizer_config.json", num_image_tokens=60)
    with pytest.raises(TrainingError, match=r"640 pieces, .* 630 rows \(690 less 60 of image"):
        convert_chatglm(hub, tmp_path / "out")
    edit_json(hub / "tokenizer_config.json", num_image_tokens=0)
    with pytest.raises(TrainingError, match=r"config.json: bos_token_id is 139, .*<sop> at 89"):
        convert_chatglm(hub, tmp_path / "out")
    edit_json(hub / "tokenizer_config.json", num_image_tokens=690)
    with pytest.raises(TrainingError, match=r"690 image tokens do not fit vocab_size 690"):
        convert_chatglm(hub, tmp_path / "out")
    edit_json(hub / "tokenizer_config.json", num_image_tokens="many")
    with pytest.raises(TrainingError, match=r"num_image_tokens must be a number, not 'many'"):
        convert_chatglm(hub, tmp_path / "out")


def test_dtype_is_cast_in_weights_and_config(tmp_path: Path) -> None:
    arguments = ["chatglm", "--input", str(BASE), "--output", str(tmp_path / "out")]
    assert main([*arguments, "--dtype", "float16"]) == 0
    assert_same(weights(tmp_path / "out"), {name: t.half() for name, t in kept().items()})
    assert json.loads((tmp_path / "out/config.json").read_text())["dtype"] == "float16"


def test_a_missing_head_is_tied_unless_the_config_says_otherwise(tmp_path: Path) -> None:
    base = copy_base(tmp_path / "base")
    edit_weights(base / "model.safetensors", lambda tensors: tensors.pop("lm_head.weight"))
    with pytest.raises(TrainingError, match=r"base lacks lm_head.weight"):
        convert_chatglm(base, tmp_path / "out")
    config = CONFIG | {}
    del config["tie_word_embeddings"], config["max_sequence_length"]  # as on the hub
    (base / "config.json").write_text(json.dumps(config))
    convert_chatglm(base, tmp_path / "out")
    written = json.loads((tmp_path / "out/config.json").read_text())
    assert (written["tie_word_embeddings"], written["max_position_embeddings"]) == (True, 2048)
    assert "lm_head.weight" not in weights(tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"quantization_bit": 4}, r"base is quantised .*convert the fp16 original, THUDM/chatglm"),
        ({"position_encoding_2d": False}, r"config.json: position_encoding_2d is false"),
        ({"model_type": "llama"}, r"model_type is 'llama', not 'chatglm'.*training.convert hf"),
        ({"num_layers": None}, r"config.json: num_layers must be a number above 0, not None"),
        ({"num_layers": 3}, r"holds transformer.layers.3.*no ChatGLM-6B of 3 layers has"),
        ({"num_layers": 5}, r"base lacks transformer.layers.4.input_layernorm.weight"),
        ({"num_attention_heads": 5}, r"5 heads do not divide hidden_size 128"),
        ({"vocab_size": 641}, r"word_embeddings.weight has shape \[640, 128\].*\[641, 128\]"),
        (
            {"eos_token_id": 2},
            r"config.json: eos_token_id is 2, but ice_text.model has <eop> at 90",
        ),
        ({"pad_token_id": 0}, r"config.json: pad_token_id is 0, .* has <pad> at 3: get every file"),
    ],
)
def test_other_models_and_contradicting_configs_are_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    base = copy_base(tmp_path / "base")
    edit_json(base / "config.json", **changes)
    with pytest.raises(TrainingError, match=message):
        convert_chatglm(base, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


def _adding(name: str) -> Callable[[Tensors], Any]:
    return lambda tensors: tensors.update({name: torch.ones(2)})


def _quantise(tensors: Tensors) -> None:
    name = LAYER + "attention.dense.weight"
    tensors[name] = tensors[name].to(torch.int8)
    tensors[name + "_scale"] = torch.ones(128)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_quantise, r"base is quantised .*attention.dense.weight"),
        (
            lambda tensors: tensors.pop(LAYER + "mlp.dense_h_to_4h.bias"),
            r"base lacks transformer.layers.0.mlp.dense_h_to_4h.bias.*get every file of THUDM",
        ),
        (
            _adding(LAYER + "odd.weight"),
            r"model.safetensors holds transformer.layers.0.odd.weight",
        ),
        (
            _adding(LAYER + "attention.dense.bias"),
            r"attention.dense.bias has shape \[2\], but config.json implies \[128\]",
        ),
        (
            _adding("transformer.prefix_encoder.embedding.weight"),
            r"prefix_encoder.*a P-tuning prefix: convert THUDM/chatglm-6b, then .*training.merge",
        ),
        (
            _adding("transformer.encoder.final_layernorm.weight"),
            r"encoder.final_layernorm.weight, which no ChatGLM-6B of 4 layers has",
        ),
        (
            lambda tensors: tensors[TABLES[0]].fill_(float("inf")),
            r"word_embeddings.weight holds NaN or Inf",
        ),
    ],
)
def test_wrong_tensors_are_refused_by_name(
    tmp_path: Path, change: Callable[[Tensors], Any], message: str
) -> None:
    base = copy_base(tmp_path / "base")
    edit_weights(base / "model.safetensors", change)
    with pytest.raises(TrainingError, match=message):
        convert_chatglm(base, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


def test_a_file_that_is_missing_or_of_another_kind_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused() -> str:
        assert main(["chatglm", "--input", str(hub), "--output", str(tmp_path / "out")]) == 2
        assert not (tmp_path / "out").exists()
        return capsys.readouterr().err

    hub = write_release(tmp_path / "hub")
    (hub / "ice_text.model").rename(hub / "kept")
    assert "ice_text.model: cannot read the tokenizer" in refused()
    (hub / "ice_text.model").write_text("not a model")
    assert "ice_text.model: not a sentencepiece model" in refused()
    shutil.copyfile(hub / "kept", hub / "ice_text.model")
    part = hub / "pytorch_model-00002-of-00003.bin"
    part.rename(hub / "away")
    assert part.name in refused()
    write_bins(hub, {"lm_head.weight": torch.ones(640, 128)}, 1)
    assert "hub lacks transformer.word_embeddings.weight" in refused()


def test_help_teaches_with_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["chatglm", "--help"])
    told = capsys.readouterr().out
    assert "python -m training.convert chatglm --input chatglm-6b" in told
    assert "neither run nor copied" in told
