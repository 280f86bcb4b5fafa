"""k8s/sizing.py counts what transformers builds and what vLLM reserves."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from k8s.sizing import KINDS, KNOWN, Model, Plan, SizingError, main, quantised_size, read
from tests.chatglm import converted_base, random_chatglm
from tests.families import FAMILIES, write_family
from tests.models import edit_json, tiny_llama, weights
from tests.paths import ROOT
from tests.training.gptq.models import calibrated, write_kind
from training.merge.job import WeightsFormat, merge
from training.merge.quantisation import Quantisation

TOLD = {
    "SmolLM2-135M": 134_515_008,
    "LLaMA-7B, Llama-2-7B": 6_738_415_616,
    "LLaMA-13B, Llama-2-13B": 13_015_864_320,
    "LLaMA-65B": 65_285_660_672,
    "Llama-2-70B": 68_976_648_192,
    "Llama-3-8B": 8_030_261_248,
    "Llama-3-70B": 70_553_706_496,
    "ChatGLM2-6B, ChatGLM3-6B": 6_243_584_000,
}
"""Parameters as their makers, or the model's page on the hub, give them."""


def config_of(directory: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((directory / "config.json").read_text("utf-8"))
    return config


def built(config: dict[str, Any]) -> int:
    """How many parameters the model has that transformers makes of a config, without memory."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", TOLD)
def test_well_known_models_have_as_many_parameters_as_published(name: str) -> None:
    assert read(KNOWN[name]).parameters == TOLD[name]


@pytest.mark.parametrize("name", [name for name in KNOWN if "ChatGLM" not in name])
def test_well_known_models_have_as_many_parameters_as_transformers_builds(name: str) -> None:
    assert read(KNOWN[name]).parameters == built(KNOWN[name])


def test_chatglm_6b_is_published_without_the_head_that_its_files_hold_too() -> None:
    config = KNOWN["ChatGLM-6B"]
    assert read(config | {"tie_word_embeddings": True}).parameters == 6_173_286_400
    assert read(config).parameters - 6_173_286_400 == 130_528 * 4096


@pytest.mark.parametrize("name", [n for n, family in FAMILIES.items() if family.kind in KINDS])
def test_a_family_has_as_many_parameters_as_its_files_hold(name: str, tmp_path: Path) -> None:
    directory = write_family(name, tmp_path / name)
    held = sum(tensor.numel() for tensor in weights(directory).values())
    assert read(config_of(directory)).parameters == held


@pytest.mark.parametrize(
    "settings",
    [
        {"num_key_value_heads": 4},
        {"head_dim": 16},
        {"tie_word_embeddings": True},
        {"attention_bias": True, "mlp_bias": True},
    ],
)
def test_settings_of_a_llama_count(settings: dict[str, Any], tmp_path: Path) -> None:
    directory = tiny_llama(tmp_path / "model", **settings)
    held = sum(tensor.numel() for tensor in weights(directory).values())
    assert read(config_of(directory)).parameters == held


@pytest.mark.parametrize(
    "settings",
    [
        {"model_type": "qwen2"},
        {"model_type": "mistral"},
        {"model_type": "qwen3", "attention_bias": True, "head_dim": 16},
        {"model_type": "glm", "attention_bias": True, "head_dim": 8},
        {"model_type": "glm4", "attention_bias": True, "head_dim": 8},
    ],
)
def test_biases_of_other_kinds_count(settings: dict[str, Any]) -> None:
    sizes = {
        **{"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "pad_token_id": None},
        **{"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2},
    }
    config = {**sizes, "tie_word_embeddings": False, **settings}
    assert read(config).parameters == built(config)


def test_chatglm_6b_has_as_many_parameters_as_its_files_hold(tmp_path: Path) -> None:
    base = converted_base(tmp_path / "base")
    directory = random_chatglm(base, tmp_path / "other", num_hidden_layers=3, inner_hidden_size=40)
    for each in (base, directory):
        held = sum(tensor.numel() for tensor in weights(each).values())
        assert read(config_of(each)).parameters == held


def test_chatglm3_counts_the_same_in_the_hubs_form_and_converted() -> None:
    name = "ChatGLM2-6B, ChatGLM3-6B"
    hub = KNOWN[name]
    converted = {
        **{"model_type": "glm", "num_hidden_layers": 28, "hidden_size": 4096, "head_dim": 128},
        **{"num_attention_heads": 32, "num_key_value_heads": 2, "intermediate_size": 13696},
        **{"vocab_size": 65024, "attention_bias": True, "tie_word_embeddings": False},
    }
    assert read(hub) == read(converted)
    assert read(converted).parameters == built(converted | {"pad_token_id": None})


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_cache_is_what_vllm_reserves(name: str, dtype: str) -> None:
    import torch
    from vllm.v1.kv_cache_interface import FullAttentionSpec

    model = read(KNOWN[name])
    page = FullAttentionSpec(
        block_size=16,
        num_kv_heads=model.kv_heads,
        head_size=model.width,
        dtype=getattr(torch, dtype),
    ).page_size_bytes
    size = getattr(torch, dtype).itemsize
    assert model.cache(size) * 16 == model.layers * page


@pytest.fixture
def small() -> Model:
    """10^9 parameters; 16 bits make 2 KiB of cache a token."""
    return Model(1, 1, 4, 2, 256, 999_999_997, 0, tied=False, small=0, matrices=1)


def test_what_fits_is_whole_sequences_of_whole_blocks(small: Model) -> None:
    plan = Plan(tokens=33, utilization=0.5, max_num_seqs=1, step_tokens=0)
    sequence = 48 * 2048
    assert plan.sequence(small, 2) == sequence
    assert plan.margin(small, 2) == 1.5e9
    fixed = small.parameters * 2 + 1.5e9
    assert plan.fits(small, 2, (fixed + 3 * sequence) / 0.5, 1) == 3
    assert plan.fits(small, 2, (fixed + 3 * sequence - 1) / 0.5, 1) == 2
    assert plan.fits(small, 2, fixed, 1) == 0


def test_gpus_share_weights_and_heads_but_repeat_a_head_that_cannot_be_split(small: Model) -> None:
    assert [small.cache(2, gpus) for gpus in (1, 2, 4)] == [2048, 1024, 1024]
    assert [small.splits(gpus) for gpus in (1, 2, 3, 4, 8)] == [True, True, False, True, False]
    plan = Plan(tokens=16, utilization=1, max_num_seqs=1, step_tokens=0)
    assert plan.fewest(small, 2, 3e9) == (2, int((3e9 - small.parameters - 1.5e9) // (16 * 1024)))
    assert plan.fewest(small, 2, 1e9) is None


def test_a_prefix_takes_cache_of_every_sequence(tmp_path: Path) -> None:
    directory = converted_base(tmp_path / "base")
    edit_json(directory / "config.json", prefix_tokens=16)
    model = read(config_of(directory))
    assert Plan(tokens=16).sequence(model, 2) == 32 * model.cache(2)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"model_type": "mixtral"}, "mixtral is unknown here; known: "),
        ({"model_type": "llama"}, "without 'hidden_size'"),
        (KNOWN["LLaMA-65B"] | {"model_type": "qwen3"}, "without 'head_dim'"),
        ([], "model_type None"),
    ],
)
def test_a_config_that_cannot_be_computed_with_is_refused(
    config: Any, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SizingError, match=words):
        read(config)
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert main(["--model", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path / 'config.json'}: ")


def int8(base: Path, output: Path) -> None:
    merge(base, [], output, WeightsFormat(quantisation=Quantisation.of("int8")))


@pytest.mark.parametrize("quantise", [int8, calibrated])
@pytest.mark.parametrize("kind", ["llama3", "llama3-tied", "chatglm_6b"])
def test_quantised_weights_take_what_their_files_hold(
    kind: str, quantise: Callable[[Path, Path], object], tmp_path: Path, capsys: Any
) -> None:
    """And what is not quantised takes the dtype that is served."""
    quantise(write_kind(kind, tmp_path / "base"), tmp_path / "out")
    tensors = weights(tmp_path / "out")
    rest = {name for name, each in tensors.items() if each.is_floating_point()}
    rest -= {name for name in rest if name.endswith("_scale")}
    kept = sum(each.nbytes for name, each in tensors.items() if name not in rest)
    model = replace(read(config_of(tmp_path / "out")), quantised=quantised_size(tmp_path / "out"))
    for size in (2, 4):
        assert model.weights(size) == kept + size * sum(tensors[name].numel() for name in rest)
    assert main(["--model", str(tmp_path / "out")]) == 0
    assert f"{model.parameters:,}, quantised" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("model.safetensors", b"", "no safetensors file"),
        ("model.safetensors", b"\xff" * 9, "model.safetensors beside it is no safetensors file"),
        ("model.safetensors", b"\2\0\0\0\0\0\0\0[]", "no safetensors file"),
        ("model.safetensors", b"\2\0\0\0\0\0\0\0{}", "none are beside it"),
        ("other.safetensors", b"", "none are beside it"),
    ],
)
def test_quantised_weights_without_files_are_refused(
    name: str, data: bytes, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = KNOWN["SmolLM2-135M"] | {"quantization_config": {"bits": 4}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / name).write_bytes(data)
    assert main(["--config", str(tmp_path / "config.json")]) == 2
    assert words in capsys.readouterr().err


def test_heads_that_so_many_gpus_cannot_share_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(KNOWN["SmolLM2-135M"]))
    asked = ["--config", str(tmp_path / "config.json"), "--tensor-parallel-size"]
    assert main([*asked, "2"]) == 2
    assert "9 heads cannot be shared by 2 GPUs" in capsys.readouterr().err
    assert main([*asked, "3"]) == 0


@pytest.mark.parametrize(
    "wrong", ["--tokens=0", "--gpu=-1", "--gpu=nan", "--gpu-memory-utilization=1.5"]
)
def test_numbers_without_sense_are_refused(wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([wrong])
    assert stopped.value.code == 2
    assert "must be above 0" in capsys.readouterr().err


def test_one_model_is_told_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps(KNOWN["LLaMA-7B, Llama-2-7B"] | {"torch_dtype": "float16"})
    )
    asked = ["--model", str(tmp_path), "--tokens", "2048", "--sequences", "20"]
    assert main([*asked, "--gpu", "24", "--gpu", "80"]) == 0
    told = capsys.readouterr().out
    assert "13.48 GB in float16" in told
    assert "21.47 GB for 20 x 2,048 tokens, 512 KiB a token" in told
    assert "24 GB       24 sequences of 2,048 tokens on 2" in told
    assert "80 GB       52 sequences of 2,048 tokens on 1" in told


def test_the_table_needs_nothing_but_python() -> None:
    run = subprocess.run(
        [sys.executable, "-S", "-I", str(ROOT / "k8s" / "sizing.py")],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    rows = [line.split(" | ") for line in run.stdout.splitlines() if line.startswith("| ")][2:]
    assert len(rows) == 2 * len(KNOWN)
    assert rows[2][:5] == ["| LLaMA-7B, Llama-2-7B", "16", "6,738,415,616", "13.5 GB", "512 KiB"]
    assert all(len(row) == 9 for row in rows)
