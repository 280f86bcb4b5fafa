import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.models import edit_json, weights
from tests.training.convert.chatglm2_release import CONFIG, random_tensors, write_release
from tests.training.convert.chatglm_release import write_bins
from training.convert.__main__ import main
from training.convert.chatglm.conversion import convert_chatglm
from training.errors import TrainingError

Tensors = dict[str, torch.Tensor]
ENCODER = "transformer.encoder."
KINDS = ["chatglm2", "chatglm3"]


def expected(tensors: Tensors) -> Tensors:
    """The original's tensors by Glm's names: 4 heads of 32 rows, then 2 of keys, 2 of values."""
    found = {
        "model.embed_tokens.weight": tensors["transformer.embedding.word_embeddings.weight"],
        "model.norm.weight": tensors[f"{ENCODER}final_layernorm.weight"],
        "lm_head.weight": tensors["transformer.output_layer.weight"],
    }
    for n in range(CONFIG["num_layers"]):
        old, new = f"{ENCODER}layers.{n}.", f"model.layers.{n}."
        for end in ("weight", "bias"):
            qkv = tensors[f"{old}self_attention.query_key_value.{end}"]
            for name, part in zip("qkv", torch.split(qkv, [128, 64, 64]), strict=True):
                found[f"{new}self_attn.{name}_proj.{end}"] = part
        found |= {
            f"{new}self_attn.o_proj.weight": tensors[f"{old}self_attention.dense.weight"],
            f"{new}mlp.gate_up_proj.weight": tensors[f"{old}mlp.dense_h_to_4h.weight"],
            f"{new}mlp.down_proj.weight": tensors[f"{old}mlp.dense_4h_to_h.weight"],
        }
        for norm in ("input_layernorm.weight", "post_attention_layernorm.weight"):
            found[new + norm] = tensors[old + norm]
    return found


def assert_same(one: Tensors, other: Tensors) -> None:
    assert one.keys() == other.keys()
    for name, values in one.items():
        assert values.dtype == other[name].dtype
        assert torch.equal(values, other[name]), name


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_every_bit_is_kept_under_glms_names(tmp_path: Path, dtype: str) -> None:
    hub = write_release(tmp_path / "hub", "chatglm2", torch_dtype=dtype)
    report = convert_chatglm(hub, tmp_path / "out", max_shard_size=200_000)
    originals = random_tensors(CONFIG | {"torch_dtype": dtype})
    assert_same(weights(tmp_path / "out"), expected(originals))
    assert report.tensors == 3 + 2 * 11
    assert report.files == len(list((tmp_path / "out").glob("*.safetensors"))) > 1
    assert json.loads((tmp_path / "out/config.json").read_text())["dtype"] == dtype


def test_dtype_is_cast_and_a_model_without_bias_stays_without(tmp_path: Path) -> None:
    hub = write_release(tmp_path / "hub", "chatglm2", add_qkv_bias=False)
    tensors = {n: t for n, t in random_tensors(CONFIG).items() if not n.endswith(".bias")}
    write_bins(hub, tensors, 2)
    arguments = ["chatglm", "--input", str(hub), "--output", str(tmp_path / "out")]
    assert main([*arguments, "--dtype", "bfloat16"]) == 0
    written = weights(tmp_path / "out")
    assert len(written) == 3 + 2 * 8
    assert {values.dtype for values in written.values()} == {torch.bfloat16}
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert (config["dtype"], config["attention_bias"]) == ("bfloat16", False)


@pytest.mark.parametrize("kind", KINDS)
def test_the_output_is_data_of_glm_alone(tmp_path: Path, kind: str) -> None:
    hub = write_release(tmp_path / "hub", kind)
    report = convert_chatglm(hub, tmp_path / "out")
    assert not (hub / "TRACE").exists()
    out = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert not any(name.endswith((".py", ".bin", ".model")) for name in out)
    assert not any(b"auto_map" in content for content in out.values())
    ends = 2 if kind == "chatglm2" else [2, 446, 448]  # </s>, <|user|>, <|observation|>
    assert json.loads(out["config.json"]) == {
        "architectures": ["GlmForCausalLM"],
        "model_type": "glm",
        **{"vocab_size": 452, "hidden_size": 128, "intermediate_size": 96, "head_dim": 32},
        **{"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2},
        **{"attention_bias": True, "rms_norm_eps": 1e-05, "max_position_embeddings": 512},
        **{"tie_word_embeddings": False, "dtype": "float32", "partial_rotary_factor": 0.5},
        "rope_parameters": {
            **{"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}
        },
        **{"eos_token_id": ends, "pad_token_id": 0},
    }
    assert json.loads(out["generation_config.json"]) == {"eos_token_id": ends, "pad_token_id": 0}
    told = json.loads(out["provenance.json"])["converted_from"]
    assert told.lower() == kind
    assert report.notes == [f"this is {told}: chat template {kind}"]


@pytest.mark.parametrize("kind", KINDS)
def test_transformers_reads_every_setting(tmp_path: Path, kind: str) -> None:
    from transformers import AutoModelForCausalLM

    hub = write_release(tmp_path / "hub", kind, rope_ratio=4, layernorm_epsilon=1e-6)
    convert_chatglm(hub, tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    attention = model.model.layers[0].self_attn
    assert (attention.head_dim, attention.num_key_value_groups) == (32, 2)
    assert (attention.q_proj.bias is None, attention.o_proj.bias is None) == (False, True)
    assert model.model.norm.variance_epsilon == 1e-6
    assert_same(dict(model.named_parameters()), weights(tmp_path / "out"))
    # half of 32 dimensions in pairs; the 32K models: positions / ratio, or base * ratio
    exponents = torch.arange(0, 16, 2) / 16
    base, scale = (10000, 4) if kind == "chatglm2" else (40000, 1)
    torch.testing.assert_close(model.model.rotary_emb.inv_freq, base**-exponents / scale)
    context = model.config.max_position_embeddings * scale  # as vLLM reckons
    assert context == 512


@pytest.mark.parametrize("told_by", ["name in config.json", "directory", "template"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_tells_the_two_apart_without_the_tokenizers_code(
    tmp_path: Path, kind: str, told_by: str
) -> None:
    hub = write_release(tmp_path / (f"my-{kind}-6b" if told_by == "directory" else "hub"), kind)
    for path in hub.glob("*.py"):
        path.unlink()
    if told_by == "name in config.json":
        edit_json(hub / "config.json", _name_or_path=f"THUDM/{kind}-6b")
    convert_chatglm(hub, tmp_path / "out", kind if told_by == "template" else None)
    told = json.loads((tmp_path / "out/provenance.json").read_text())["converted_from"]
    assert told.lower() == kind


def test_where_nothing_tells_the_two_apart_the_user_is_asked(tmp_path: Path) -> None:
    hub = write_release(tmp_path / "hub", "chatglm3")
    (hub / "tokenization_chatglm.py").unlink()
    with pytest.raises(
        TrainingError, match=r"hub: ChatGLM2 or ChatGLM3\? .*--template chatglm2 or"
    ):
        convert_chatglm(hub, tmp_path / "out")
    hub = write_release(tmp_path / "other", "chatglm2")
    with pytest.raises(TrainingError, match=r"other is ChatGLM2, .*use --template chatglm2"):
        convert_chatglm(hub, tmp_path / "out", "chatglm3")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rmsnorm": False}, r"config.json: rmsnorm is False; only True .*THUDM/chatglm2-6b"),
        ({"post_layer_norm": False}, r"post_layer_norm is False; only True is supported"),
        ({"add_bias_linear": True}, r"add_bias_linear is True; only False is supported"),
        ({"interleaved_qkv": True}, r"interleaved_qkv is True; only False is supported"),
        ({"multi_query_attention": False}, r"multi_query_attention is False; only True"),
        ({"multi_query_attention": None}, r"multi_query_attention is None; only True"),
        ({"original_rope": False}, r"original_rope is False; only True is supported"),
        ({"apply_residual_connection_post_layernorm": True}, r"post_layernorm is True; only False"),
        ({"quantization_bit": 4}, r"hub is quantised .*convert the fp16 original, THUDM/chatglm2"),
        ({"pre_seq_len": 128}, r"config.json: pre_seq_len is set, .*P-tuned.*convert THUDM/chat"),
        ({"rope_ratio": 0}, r"config.json: rope_ratio must be a number above 0, not 0"),
        ({"multi_query_group_num": 3}, r"multi_query_group_num 3 does not divide 4 heads"),
        ({"kv_channels": None}, r"config.json: kv_channels must be a number above 0, not None"),
        ({"num_layers": 1}, r"holds transformer.encoder.layers.1.*no ChatGLM2 of 1 layers has"),
        ({"num_layers": 3}, r"hub lacks transformer.encoder.layers.2.input_layernorm.weight"),
        ({"multi_query_group_num": 1}, r"query_key_value.weight has shape \[256, 128\].*\[192, 12"),
        ({"add_qkv_bias": False}, r"query_key_value.bias, which no ChatGLM2 of 2 layers has"),
        ({"padded_vocab_size": 451}, r"word_embeddings.weight has shape \[452, 128\].*\[451, 128"),
    ],
)
def test_what_glm_does_not_compute_is_refused_by_name(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    hub = write_release(tmp_path / "hub", "chatglm2")
    edit_json(hub / "config.json", **changes)
    with pytest.raises(TrainingError, match=message):
        convert_chatglm(hub, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["hub"]


def _quantise(tensors: Tensors) -> None:
    name = f"{ENCODER}layers.0.self_attention.dense.weight"
    tensors[name] = tensors[name].to(torch.int8)
    tensors[name + "_scale"] = torch.ones(128)


def _adding(name: str) -> Callable[[Tensors], Any]:
    return lambda tensors: tensors.update({name: torch.ones(2)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_quantise, r"hub is quantised .*self_attention.dense.*original, THUDM/chatglm3-6b"),
        (
            _adding("transformer.prefix_encoder.embedding.weight"),
            r"prefix_encoder.*a P-tuning prefix: .* convert THUDM/chatglm3-6b and train on that",
        ),
        (_adding(f"{ENCODER}odd.weight"), r"\.bin holds transformer.encoder.odd.weight"),
        (
            lambda tensors: tensors.pop("transformer.output_layer.weight"),
            r"hub lacks transformer.output_layer.weight.*get every file of THUDM/chatglm3-6b",
        ),
        (
            lambda tensors: tensors["transformer.output_layer.weight"].fill_(float("nan")),
            r"transformer.output_layer.weight holds NaN or Inf",
        ),
    ],
)
def test_wrong_tensors_are_refused_by_name(
    tmp_path: Path, change: Callable[[Tensors], Any], message: str
) -> None:
    hub = write_release(tmp_path / "hub", "chatglm3")
    tensors = random_tensors(CONFIG)
    change(tensors)
    write_bins(hub, tensors, 2)
    with pytest.raises(TrainingError, match=message):
        convert_chatglm(hub, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_help_names_the_three_generations(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["chatglm", "--help"])
    told = capsys.readouterr().out
    assert "ChatGLM-6B, ChatGLM2-6B or ChatGLM3-6B" in told
    assert "python -m training.convert chatglm --input chatglm2-6b" in told
