import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.models import edit_json, edit_weights, tiny_adapter, tiny_llama
from training.errors import TrainingError
from training.merge.__main__ import main
from training.merge.job import WeightsFormat, merge

Tensors = dict[str, torch.Tensor]
Q = "model.layers.1.self_attn.q_proj"
LORA = f"base_model.model.{Q}.lora_"


def refused(tmp_path: Path, *adapters: Path, base: Path | None = None, **options: Any) -> str:
    """Return why merging into tmp_path/out was refused; nothing may be left beside it."""
    before = {path.name for path in tmp_path.iterdir()}
    with pytest.raises(TrainingError) as error:
        merge(base or tmp_path / "base", adapters, tmp_path / "out", WeightsFormat(**options))
    assert {path.name for path in tmp_path.iterdir()} == before
    return str(error.value)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("use_dora", True),
        ("modules_to_save", ["lm_head"]),
        ("lora_bias", True),
        ("peft_type", "LOHA"),
        ("init_lora_weights", "pissa"),
        ("layer_replication", [[0, 1]]),
        ("a_setting_of_tomorrow", True),
        ("r", None),
        ("r", "4"),
        ("r", 5),
        ("lora_alpha", None),
        ("lora_alpha", True),
        ("rank_pattern", {"q_proj": 0}),
        ("rank_pattern", ["q_proj"]),
        ("alpha_pattern", {"q_(proj": 4}),
    ],
)
def test_settings_that_merging_cannot_honour_are_refused_by_name(
    base: Path, adapter: Path, tmp_path: Path, setting: str, value: Any
) -> None:
    edit_json(adapter / "adapter_config.json", **{setting: value})
    message = refused(tmp_path, adapter)
    assert str(adapter) in message
    assert "rank" in message if setting == "r" and value else setting.split("_")[0] in message


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.update({f"{LORA}C.weight": torch.ones(2)}), "not a LoRA pair"),
        (lambda t: t.update({"base_model.model.lm_head.weight": torch.ones(2)}), "lm_head.weight"),
        (lambda t: t.update({f"{LORA}magnitude_vector": torch.ones(32)}), "use_dora"),
        (lambda t: t.pop(f"{LORA}B.weight"), "has lora_A but no lora_B"),
        (lambda t: t.pop(f"{LORA}A.weight"), "has lora_B but no lora_A"),
        (lambda t: t.update({f"{LORA}A.weight": torch.ones(4, 31)}), "do not belong together"),
        (lambda t: t.update({f"{LORA}B.weight": torch.ones(32, 3)}), "do not belong together"),
        (lambda t: t[f"{LORA}A.weight"].fill_(math.nan), "holds NaN or Inf"),
        (lambda t: t[f"{LORA}B.weight"].fill_(-math.inf), "holds NaN or Inf"),
        (lambda t: [v.zero_() for k, v in t.items() if "lora_B" in k], "changes nothing"),
        (
            lambda t: [t.update({k.replace("layers", "blocks"): t.pop(k)}) for k in [*t]],
            "matches nothing",
        ),
    ],
)
def test_adapter_weights_that_do_not_fit_are_refused(
    base: Path, adapter: Path, tmp_path: Path, change: Callable[[Tensors], Any], words: str
) -> None:
    edit_weights(adapter / "adapter_model.safetensors", change)
    message = refused(tmp_path, adapter)
    assert words in message
    assert str(adapter) in message


def test_one_pair_of_zeros_is_fine(base: Path, adapter: Path, tmp_path: Path) -> None:
    edit_weights(adapter / "adapter_model.safetensors", lambda t: t[f"{LORA}B.weight"].zero_())
    assert merge(base, [adapter], tmp_path / "out").changed == 13


def test_one_of_two_adapters_that_changes_nothing_is_refused(
    base: Path, adapter: Path, tmp_path: Path
) -> None:
    zero = tiny_adapter(base, tmp_path / "zero", std=0)
    assert f"{zero} changes nothing" in refused(tmp_path, adapter, zero)


def test_changes_that_rounding_swallows_are_refused(base: Path, tmp_path: Path) -> None:
    tiny = tiny_adapter(base, tmp_path / "tiny", std=1e-9)
    assert "--dtype float32" in refused(tmp_path, tiny)


@pytest.mark.parametrize("name", [f"{Q}.weight", "model.norm.weight"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_base_with_nan_or_inf_is_refused_and_leaves_nothing(
    base: Path, adapter: Path, tmp_path: Path, name: str, value: float
) -> None:
    edit_weights(base / "model.safetensors", lambda t: t[name].view(-1)[-1].fill_(value))
    message = refused(tmp_path, adapter, max_shard_size=30_000)
    assert f"{name} holds NaN or Inf" in message


@pytest.mark.parametrize("name", [f"{Q}.weight", "model.norm.weight"])
def test_overflow_of_float16_is_refused(
    base: Path, adapter: Path, tmp_path: Path, name: str
) -> None:
    edit_weights(base / "model.safetensors", lambda t: t[name].view(-1)[0].fill_(1e5))
    assert f"{name} overflows float16" in refused(tmp_path, adapter, dtype="float16")
    merge(base, [adapter], tmp_path / "out", WeightsFormat("bfloat16"))


def test_base_of_integers_is_refused(base: Path, adapter: Path, tmp_path: Path) -> None:
    quantised = torch.ones(32, 32, dtype=torch.int8)
    edit_weights(base / "model.safetensors", lambda t: t.update({f"{Q}.weight": quantised}))
    assert "dtype I8" in refused(tmp_path, adapter)
    edit_json(base / "config.json", quantization_config={"bits": 8})
    assert "is quantised" in refused(tmp_path, adapter)


def test_grown_vocabulary_is_refused(base: Path, adapter: Path, tmp_path: Path) -> None:
    grown = {"model": {"vocab": {"a": 0}}, "added_tokens": [{"id": 64, "content": "b"}]}
    (adapter / "tokenizer.json").write_text(json.dumps(grown))
    assert "needs 65 embedding rows, the model has 64" in refused(tmp_path, adapter)


@pytest.mark.parametrize(
    ("special", "role", "template", "fits"),
    [
        (True, None, "", True),  # as Gemma 3's token for images, in its text-only models
        (False, None, "", False),
        (True, "pad_token", "", False),
        (True, "eos_token", "", False),
        (True, None, "{{ '<image>' }}", False),
    ],
)
def test_a_control_token_that_nothing_leads_to_needs_no_row(
    base: Path,
    adapter: Path,
    tmp_path: Path,
    special: bool,
    role: str | None,
    template: str,
    fits: bool,
) -> None:
    added = [{"id": 64, "content": "<image>", "special": special}]
    tokenizer = {"model": {"vocab": {"a": 0, "<image>": 64}}, "added_tokens": added}
    (adapter / "tokenizer.json").write_text(json.dumps(tokenizer))
    roles = {role: "<image>"} if role else {}
    settings = {"chat_template": template, **roles} if template else roles
    (adapter / "tokenizer_config.json").write_text(json.dumps(settings))
    if role:  # one that tokenizer.json does not have is added by whoever loads it
        assert "needs 65 embedding rows" in refused(tmp_path, adapter)
        (adapter / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"a": 63}}}))
    if fits:
        assert merge(base, [adapter], tmp_path / "out").changed
    else:
        assert "needs 65 embedding rows" in refused(tmp_path, adapter)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("base/config.json", "cannot read"),
        ("base/model.safetensors", "is it a model directory"),
        ("adapter/adapter_config.json", "cannot read"),
        ("adapter/adapter_model.safetensors", "cannot read"),
    ],
)
def test_missing_files_are_named(
    base: Path, adapter: Path, tmp_path: Path, path: str, words: str
) -> None:
    (tmp_path / path).unlink()
    message = refused(tmp_path, adapter)
    assert words in message
    assert str(tmp_path / path.split("/")[0]) in message


def test_a_file_cut_short_or_not_safetensors_is_refused(
    base: Path, adapter: Path, tmp_path: Path
) -> None:
    file = base / "model.safetensors"
    whole = file.read_bytes()
    a_list = (9).to_bytes(8, "little") + b"[1,2,3,4]"
    for content in (whole[:-1], whole[:100], b"", b"\xff" * 40, a_list):
        file.write_bytes(content)
        assert f"{file} is not a whole safetensors file" in refused(tmp_path, adapter)


def test_an_index_that_names_what_no_shard_has_is_refused(adapter: Path, tmp_path: Path) -> None:
    base = tiny_llama(tmp_path / "base", max_shard_size="20KB")
    path = base / "model.safetensors.index.json"
    weight_map = json.loads(path.read_text())["weight_map"]
    edit_json(path, weight_map=weight_map | {"ghost": weight_map["model.norm.weight"]})
    assert "ghost" in refused(tmp_path, adapter)
    path.write_text("{")
    assert f"{path} is not valid JSON" in refused(tmp_path, adapter)


def test_an_output_that_exists_is_refused_and_kept(
    base: Path, adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/precious").write_text("kept")
    paths = ["--base", str(base), "--adapter", str(adapter), "--output", str(tmp_path / "out")]
    assert main(paths) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path / 'out'} exists already")
    assert (tmp_path / "out/precious").read_text() == "kept"
