import json
import math
import re
import shutil
import stat
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.models import PROJECTIONS, edit_json, edit_weights, tiny_adapter, tiny_llama, weights
from tests.training.merge.exact import Tensors, merged_exactly, nearest
from training.errors import TrainingError
from training.merge.__main__ import main
from training.merge.job import WeightsFormat, merge

DOWN = "model.layers.1.mlp.down_proj"


def peft_merged(base: Path, adapter: Path) -> Tensors:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)
    merged: Tensors = model.merge_and_unload().state_dict()
    return merged


@pytest.mark.parametrize(
    "lora",
    [
        {},
        {"use_rslora": True},
        {"rank_pattern": {"q_proj": 2, r"layers\.1\.mlp\.(up|down)_proj": 6}},
        {"alpha_pattern": {"k_proj": 32, "1.self_attn.q_proj": 1}},
        {"use_rslora": True, "rank_pattern": {".*": 3}, "alpha_pattern": {"v_proj": 5}},
        {"target_modules": ["lm_head", "down_proj"]},
    ],
)
def test_equals_peft_in_float32(base: Path, tmp_path: Path, lora: dict[str, Any]) -> None:
    adapter = tiny_adapter(base, tmp_path / "adapter", **lora)
    merge(base, [adapter], tmp_path / "out")
    merged, expected = weights(tmp_path / "out"), peft_merged(base, adapter)
    assert merged.keys() == expected.keys()
    for name, values in expected.items():
        torch.testing.assert_close(merged[name], values, rtol=0, atol=1e-6)
    assert not torch.equal(merged[f"{DOWN}.weight"], weights(base)[f"{DOWN}.weight"])


def test_merged_directory_loads_and_answers_as_base_with_adapter(
    base: Path, adapter: Path, tmp_path: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    merge(base, [adapter], tmp_path / "out")
    ids = torch.arange(1, 20)[None]
    with torch.no_grad():
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out")(ids).logits
        unmerged = AutoModelForCausalLM.from_pretrained(base)
        expected = PeftModel.from_pretrained(unmerged, adapter)(ids).logits
    torch.testing.assert_close(merged, expected, rtol=0, atol=1e-5)


def test_two_adapters_at_once_are_closer_to_fp64_than_one_after_the_other(tmp_path: Path) -> None:
    sizes = {"hidden_size": 128, "intermediate_size": 256}
    base = tiny_llama(tmp_path / "base", dtype="float16", **sizes)
    adapters = [tiny_adapter(base, tmp_path / name, seed) for seed, name in enumerate("ab")]
    merge(base, adapters, tmp_path / "once")
    merge(base, adapters[:1], tmp_path / "half")
    merge(tmp_path / "half", adapters[1:], tmp_path / "twice")
    truth = merged_exactly(base, adapters, scale=8 / 4)
    off = {}
    for way in ("once", "twice"):
        merged = weights(tmp_path / way)
        assert {values.dtype for values in merged.values()} == {torch.float16}
        names = [name for name in truth if "proj" in name]
        off[way] = torch.cat(
            [(merged[n] != nearest(truth[n], torch.float16)).flatten() for n in names]
        )
    assert off["once"].double().mean() == 0
    assert off["twice"].double().mean() > 0.1


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_dtype_casts_every_weight_and_the_config(
    base: Path, adapter: Path, tmp_path: Path, dtype: str
) -> None:
    merge(base, [adapter], tmp_path / "out", WeightsFormat(dtype))
    kind = getattr(torch, dtype)
    truth = merged_exactly(base, [adapter], scale=2)
    assert json.loads((tmp_path / "out/config.json").read_text())["dtype"] == dtype
    for name, values in weights(tmp_path / "out").items():
        assert values.dtype == kind
        assert torch.equal(values, nearest(truth[name], kind))


def test_sharded_base_to_sharded_output_gives_the_same_weights(
    adapter: Path, tmp_path: Path
) -> None:
    base = tiny_llama(tmp_path / "base", max_shard_size="20KB")
    assert len(list(base.glob("model-*.safetensors"))) > 1
    merge(base, [adapter], tmp_path / "one")
    merge(base, [adapter], tmp_path / "many", WeightsFormat(max_shard_size=30_000))
    assert [path.name for path in (tmp_path / "one").glob("*.safetensors*")] == [
        "model.safetensors"
    ]
    files = sorted(path.name for path in (tmp_path / "many").glob("*.safetensors"))
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    assert all(path.stat().st_size < 32_000 for path in (tmp_path / "many").glob("*.safetensors"))
    index = json.loads((tmp_path / "many/model.safetensors.index.json").read_text())
    one, many = weights(tmp_path / "one"), weights(tmp_path / "many")
    assert one.keys() == many.keys() == index["weight_map"].keys() == weights(base).keys()
    assert sorted(set(index["weight_map"].values())) == files
    assert all(torch.equal(values, many[name]) for name, values in one.items())


def test_weights_larger_than_a_chunk_are_merged_whole(tmp_path: Path) -> None:
    base = tiny_llama(tmp_path / "base", vocab_size=20_000, num_hidden_layers=1)
    adapter = tiny_adapter(base, tmp_path / "adapter", target_modules=["lm_head"])
    merge(base, [adapter], tmp_path / "out")
    truth, merged = merged_exactly(base, [adapter], scale=2), weights(tmp_path / "out")
    for name, values in truth.items():
        torch.testing.assert_close(merged[name], values.float(), rtol=0, atol=1e-6)


def test_tied_embeddings_and_integer_tensors_are_copied_as_they_are(
    adapter: Path, tmp_path: Path
) -> None:
    base = tiny_llama(tmp_path / "base", tie_word_embeddings=True)
    extra = {"steps": torch.tensor([3, 4, 5]), "one": torch.tensor(7, dtype=torch.uint8)}
    edit_weights(base / "model.safetensors", lambda tensors: tensors.update(extra))
    merge(base, [adapter], tmp_path / "out", WeightsFormat("bfloat16"))
    merged = weights(tmp_path / "out")
    assert "lm_head.weight" not in merged
    assert merged["steps"].tolist() == [3, 4, 5]
    assert (merged["one"].item(), merged["one"].shape) == (7, ())


def test_files_are_readable_by_everyone(base: Path, adapter: Path, tmp_path: Path) -> None:
    (base / "generation_config.json").chmod(0o600)
    merge(base, [adapter], tmp_path / "out")
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) & 0o555 == 0o555
    assert all(path.stat().st_mode & 0o444 == 0o444 for path in (tmp_path / "out").iterdir())


def test_tokenizer_comes_from_the_last_adapter_that_has_one(
    base: Path, adapter: Path, tmp_path: Path
) -> None:
    second = Path(shutil.copytree(adapter, tmp_path / "second"))
    for directory, mark in ((base, "base"), (adapter, "adapter")):
        (directory / "tokenizer.json").write_text('{"model": {"vocab": {"a": 0}}}')
        (directory / "tokenizer_config.json").write_text(json.dumps({"mark": mark}))
        (directory / "chat_template.jinja").write_text(mark)
        (directory / "modeling_evil.py").write_text("raise SystemExit")
    merge(base, [adapter, second], tmp_path / "out")
    merge(base, [second], tmp_path / "plain")
    assert (tmp_path / "out/chat_template.jinja").read_text() == "adapter"
    assert json.loads((tmp_path / "out/tokenizer_config.json").read_text()) == {
        **{"mark": "adapter", "tokenizer_class": "PreTrainedTokenizerFast"}
    }
    assert (tmp_path / "plain/chat_template.jinja").read_text() == "base"
    assert not list((tmp_path / "out").glob("*.py"))


@pytest.mark.parametrize("where", ["file", "config", "list"])
def test_the_chat_template_survives_an_adapter_whose_tokenizer_has_none(
    base: Path, adapter: Path, tmp_path: Path, where: str
) -> None:
    for directory in (base, adapter):
        (directory / "tokenizer.json").write_text('{"model": {"vocab": {"a": 0}}}')
        (directory / "tokenizer_config.json").write_text("{}")
    if where == "file":
        (base / "chat_template.jinja").write_text("base's")
    else:
        named = [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "base's"}]
        template = named if where == "list" else "base's"
        edit_json(base / "tokenizer_config.json", chat_template=template)
    report = merge(base, [adapter], tmp_path / "out")
    assert (tmp_path / "out/chat_template.jinja").read_text() == "base's"
    assert any("the chat template is the base's" in note for note in report.notes)


def test_a_damaged_file_is_named_by_its_own_path(base: Path, adapter: Path, tmp_path: Path) -> None:
    (base / "tokenizer_config.json").write_text("{")
    with pytest.raises(TrainingError, match=re.escape(str(base / "tokenizer_config.json"))):
        merge(base, [adapter], tmp_path / "out")


def test_auto_map_is_dropped_with_a_note(base: Path, adapter: Path, tmp_path: Path) -> None:
    edit_json(base / "config.json", auto_map={"AutoModel": "modeling_evil.Evil"})
    report = merge(base, [adapter], tmp_path / "out")
    assert "auto_map" not in json.loads((tmp_path / "out/config.json").read_text())
    assert any("auto_map" in note for note in report.notes)


def test_provenance_tells_what_was_merged_and_proves_the_files(
    base: Path, adapter: Path, tmp_path: Path
) -> None:
    merge(base, [adapter], tmp_path / "out", WeightsFormat(max_shard_size=30_000))
    text = (tmp_path / "out/provenance.json").read_text()
    told = json.loads(text)
    files = sorted((tmp_path / "out").glob("*.safetensors"))
    sums = {path.name: sha256(path.read_bytes()).hexdigest() for path in files}
    listing = "".join(f"{digest}  {name}\n" for name, digest in sums.items())
    weights_sum = sha256((adapter / "adapter_model.safetensors").read_bytes()).hexdigest()
    assert told["base"] == {"name": "base"}
    assert told["adapters"][0]["name"] == "adapter"
    assert told["adapters"][0]["sha256"] == weights_sum
    assert (told["adapters"][0]["r"], told["adapters"][0]["lora_alpha"]) == (4, 8)
    assert sorted(told["adapters"][0]["target_modules"]) == sorted(PROJECTIONS)
    assert told["files"] == sums
    others = [path for path in (tmp_path / "out").iterdir() if path.name not in sums]
    assert told["other_files"] == {
        path.name: sha256(path.read_bytes()).hexdigest()
        for path in others
        if path.name != "provenance.json"
    }
    assert told["sha256"] == sha256(listing.encode()).hexdigest()
    assert told["versions"].keys() == {"python", "mergeline", "numpy", "numba"}
    assert told["check"]["changed"] == 14
    assert str(tmp_path) not in text
    merge(base, [adapter], tmp_path / "again", WeightsFormat(max_shard_size=30_000))
    assert (tmp_path / "again/provenance.json").read_text() == text


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_lost_share_and_mean_change_are_those_of_fp64(
    base: Path, tmp_path: Path, dtype: str
) -> None:
    adapter = tiny_adapter(base, tmp_path / "adapter", std=0.003)
    tally = merge(base, [adapter], tmp_path / "out", WeightsFormat(dtype)).tally
    truth, start = merged_exactly(base, [adapter], scale=2), weights(base)
    merged = weights(tmp_path / "out")
    names = [name for name in truth if "_proj" in name]
    delta = torch.cat([(truth[name] - start[name].double()).flatten() for name in names])
    lost = torch.cat([(merged[name].double() - truth[name]).flatten() for name in names])
    assert math.isclose(tally.lost_share, float(lost.norm() / delta.norm()), rel_tol=1e-3)
    assert math.isclose(tally.mean_change, float(delta.square().mean().sqrt()), rel_tol=1e-6)


def test_command_prints_a_summary_and_warns_of_lost_change(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = tiny_adapter(base, tmp_path / "adapter", std=0.003)
    paths = ["--base", str(base), "--adapter", str(adapter), "--output", str(tmp_path / "out")]
    assert main([*paths, "--dtype", "bfloat16", "--max-shard-size", "1MiB"]) == 0
    printed = capsys.readouterr()
    assert "14 of 21 tensors changed" in printed.out
    assert "rounding to bfloat16 lost" in printed.out
    assert "warning: bfloat16 is too coarse for this adapter" in printed.err
    assert "--dtype float16" in printed.err


@pytest.mark.parametrize("size", ["0", "2TB", "-1GB", "GB", "2 GB"])
def test_a_shard_size_that_is_none_is_refused(
    size: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--base", "b", "--adapter", "a", "--output", "o", f"--max-shard-size={size}"])
    assert stopped.value.code == 2
    assert "--max-shard-size" in capsys.readouterr().err


def test_help_does_not_import_torch() -> None:
    code = "import sys, training.merge.__main__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
