"""What cannot be calibrated is refused by name, before any layer is computed; no output stays."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.chatglm import GOLDEN
from tests.families import write_family
from tests.models import edit_json, edit_weights, tiny_llama, weights
from tests.training.gptq.models import write_kind, write_rows
from training.gptq.__main__ import main as gptq
from training.gptq.job import Calibration, calibrate
from training.merge.job import merge


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Holds a model and rows."""
    write_kind("llama3", tmp_path / "model")
    write_rows(tmp_path / "rows.json")
    return tmp_path


def run(folder: Path, *options: str, model: str = "model") -> int:
    where = ["--model", str(folder / model), "--output", str(folder / "int4")]
    return gptq([*where, "--data", str(folder / "rows.json"), *options])


def refused(capsys: pytest.CaptureFixture[str], folder: Path, *options: str, **more: str) -> str:
    """What the command says; it leaves nothing behind."""
    before = sorted(folder.iterdir())
    assert run(folder, *options, **more) == 2
    told = capsys.readouterr()
    assert sorted(folder.iterdir()) == before
    assert "layers" not in told.out
    return told.err


def test_groups_that_do_not_divide_a_layer_name_those_that_do(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = refused(capsys, folder)
    assert "inputs, which are no groups of 128: set --group-size 32" in told
    assert run(folder, "--group-size", "32") == 0


def test_where_no_group_divides_a_layer_it_can_be_left_alone(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_family_of(folder, intermediate_size=80)
    told = refused(capsys, folder, "--group-size", "32", model="odd")
    assert "model.layers.0.mlp.down_proj has 80 inputs" in told
    assert "leave it alone with --ignore, or quantise to int8" in told
    ignored = ["--ignore", r"down_proj", "--ignore", r"gate_proj|up_proj"]
    assert run(folder, "--group-size", "32", *ignored, model="odd") == 0
    config = json.loads((folder / "int4" / "config.json").read_text())["quantization_config"]
    names = {f"model.layers.{i}.mlp.{n}_proj" for i in (0, 1) for n in ("gate", "up", "down")}
    assert {*config["ignore"]} == {"lm_head"} | names


def test_outputs_that_vllm_s_kernels_do_not_take(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_family_of(folder, head_dim=8, hidden_size=64, intermediate_size=96)
    told = refused(capsys, folder, "--group-size", "32", model="odd")
    assert "k_proj has 16 outputs, and vLLM's kernels for int4 take multiples of 32" in told


def write_family_of(folder: Path, **sizes: Any) -> None:
    """A LLaMA of other sizes, with the tokenizer of the first."""
    model, odd = folder / "model", folder / "odd"
    sizes["vocab_size"] = json.loads((model / "config.json").read_text())["vocab_size"]
    tiny_llama(odd, **({"hidden_size": 64, "intermediate_size": 96} | sizes))
    for file in model.iterdir():
        if not (odd / file.name).exists():
            (odd / file.name).write_bytes(file.read_bytes())


def test_layers_that_vllm_fuses_are_ignored_together(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = refused(capsys, folder, "--group-size", "32", "--ignore", "k_proj")
    assert "vLLM computes it together with" in told


@pytest.mark.parametrize("family", ["bloom", "gemma2", "qwen3-moe"])
def test_kinds_of_models_whose_layers_are_not_known(
    folder: Path, family: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_family(family, folder / "other")
    told = refused(capsys, folder, "--group-size", "32", model="other")
    assert "quantised are chatglm_6b, glm, glm4, llama, mistral, qwen2, qwen3" in told


def test_a_model_that_is_quantised_already(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(folder, "--group-size", "32") == 0
    (folder / "int4").rename(folder / "done")
    capsys.readouterr()
    assert "is quantised: take the model it was quantised from" in refused(
        capsys, folder, "--group-size", "32", model="done"
    )


def test_a_model_with_a_prefix(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_kind("chatglm_6b", tmp_path / "base")
    merge(tmp_path / "base", [GOLDEN / "ptuning"], tmp_path / "model")
    write_rows(tmp_path / "rows.json")
    assert "holds a trained prefix" in refused(capsys, tmp_path)


def test_an_output_that_is_there(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "int4").mkdir()
    assert "exists already" in refused(capsys, folder, "--group-size", "32")


BROKEN = '{"input": "a", "target": "b"}\n{"input": "c"}\n{"input": 7, "target": "d"}\n'
CONTROL = json.dumps({"input": "a<|eot_id|>", "target": "b"})


@pytest.mark.parametrize(
    ("rows", "options", "told"),
    [
        (BROKEN, (), ["rows.json:2", "rows.json:3"]),
        ("", (), ["no samples in it"]),
        (CONTROL, (), ["rows.json:1", "control token '<|eot_id|>'"]),
        (None, ("data.prompt=question",), ["no column 'question'"]),
        (None, ("data.color=red",), ["the key one of data.format, data.prompt"]),
        (None, ("data.format=xml",), ["data.format"]),
        (None, ("--max-length", "8"), ["data.max_length", "greater than or equal to 16"]),
        (None, ("--samples", "0"), ["--samples 0"]),
    ],
)  # fmt: skip
def test_rows_that_training_would_refuse(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    rows: str | None,
    options: tuple[str, ...],
    told: list[str],
) -> None:
    if rows is not None:
        (folder / "rows.json").write_text(rows)
    message = refused(capsys, folder, "--group-size", "32", *options)
    assert all(words in message for words in told), message


def test_columns_of_other_names_are_taken(folder: Path) -> None:
    write_rows(folder / "rows.json", prompt="question", response="answer")
    options = ["data.prompt=question", "data.response=answer", "--group-size", "32"]
    assert run(folder, *options) == 0


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda t: t["model.layers.1.mlp.up_proj.weight"].view(-1)[3:4].fill_(float("nan")),
         r"layers\.1\.mlp\.up_proj\.weight holds NaN or Inf"),
        (lambda t: t["model.norm.weight"][3:4].fill_(float("inf")),
         r"model\.norm\.weight holds NaN or Inf"),
        (lambda t: t["model.layers.1.input_layernorm.weight"].fill_(1e25),
         r"layers\.1\.self_attn\.q_proj: its inputs are all 0 or not finite"),
        (lambda t: t["model.embed_tokens.weight"].fill_(1e30), "inputs are all 0 or not"),
        (lambda t: t.update({"more.weight": t["lm_head.weight"][:64] * 1}),
         "holds more.weight, which a model of its config"),
        (lambda t: t.update({"model.norm.weight": t["model.norm.weight"].double()}),
         r"model\.norm\.weight is F64"),
        (lambda t: t.update({n: t[n].double() for n in t if "k_proj" in n}),
         "k_proj.weight is F64"),
        (lambda t: t.pop("model.layers.1.mlp.up_proj.weight"), "lacks model.layers.1"),
    ],
)  # fmt: skip
def test_weights_that_are_damaged(
    folder: Path, capsys: pytest.CaptureFixture[str], change: Callable[[Any], Any], told: str
) -> None:
    edit_weights(folder / "model" / "model.safetensors", change)
    with pytest.raises(AssertionError, match=told):
        assert not refused(capsys, folder, "--group-size", "32")


def test_equal_inputs_give_equal_files_and_other_rows_do_not(folder: Path) -> None:
    data = folder / "rows.json"
    for name, seed in (("one", 1), ("again", 1), ("other", 2)):
        calibrate(folder / "model", folder / name, Calibration(data, samples=5, seed=seed), 32)
    files = {path.name: path.read_bytes() for path in (folder / "one").iterdir()}
    assert {path.name: path.read_bytes() for path in (folder / "again").iterdir()} == files
    assert (folder / "other" / "model.safetensors").read_bytes() != files["model.safetensors"]


def test_many_files_hold_what_one_does(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = Calibration(folder / "rows.json", samples=5)
    calibrate(folder / "model", folder / "one", data, 32)
    monkeypatch.setattr("training.gptq.job.SHARD", 20_000)
    report = calibrate(folder / "model", folder / "many", data, 32)
    assert report.files > 3
    one, many = weights(folder / "one"), weights(folder / "many")
    assert one.keys() == many.keys()
    assert all((one[name] == many[name]).all() for name in one)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"num_hidden_layers": 1}, "layers.1.mlp.down_proj.weight, which a model of its config"),
        ({"num_hidden_layers": 3}, "lacks model.layers.2"),
        ({"intermediate_size": 64}, "is F32 (96, 64), and by config.json (64, 64)"),
        ({"hidden_act": "none"}, "config.json does not describe a llama model"),
    ],
)
def test_a_config_of_another_model(
    folder: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], told: str
) -> None:
    edit_json(folder / "model" / "config.json", **changes)
    assert told in refused(capsys, folder, "--group-size", "32")
