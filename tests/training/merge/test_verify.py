import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.models import edit_weights, tiny_adapter, tiny_llama
from tests.training.merge.test_merge_kinds import adalora
from tests.training.merge.test_merge_whole import BOTH, as_peft_0_2_wrote_it
from training.errors import TrainingError
from training.merge.__main__ import main
from training.merge.job import WeightsFormat, merge
from training.merge.lora import total_change
from training.merge.verdict import PROMPTS, UnfaithfulMergeError
from training.weights.rounding import Change


@pytest.fixture
def wrong_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    """Merging computes half of every change."""

    def halved(pairs: Any) -> Change:
        change = total_change(pairs)
        return Change(change.left / 2, change.right)

    monkeypatch.setattr("training.merge.merged_weights.total_change", halved)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("seed", range(3))
def test_a_right_merge_is_verified_in_every_dtype(tmp_path: Path, dtype: str, seed: int) -> None:
    base = tiny_llama(tmp_path / "base", seed=seed, dtype=dtype, num_hidden_layers=4)
    adapters = [tiny_adapter(base, tmp_path / name, seed) for seed, name in enumerate("ab")]
    verdict = merge(base, adapters, tmp_path / "out", prompts=PROMPTS).verdict
    assert verdict
    assert verdict.positions > 100
    assert 0 < verdict.max_difference <= verdict.allowed
    assert verdict.same_token > (0.99 if dtype == "float32" else 0.9)
    told = json.loads((tmp_path / "out/provenance.json").read_text())
    assert told["check"]["verify"]["max_difference"] == verdict.max_difference


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_a_wrong_merge_is_found_and_leaves_nothing(
    base: Path, tmp_path: Path, wrong_scale: None, dtype: str
) -> None:
    adapter = tiny_adapter(base, tmp_path / "adapter", std=0.1)
    with pytest.raises(UnfaithfulMergeError, match="not base \\+ adapters"):
        merge(base, [adapter], tmp_path / "out", WeightsFormat(dtype), prompts=PROMPTS)
    assert {path.name for path in tmp_path.iterdir()} == {"base", "adapter"}


def test_the_command_prints_the_verdict(
    base: Path, adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = ["--base", str(base), "--adapter", str(adapter), "--output"]
    assert main([*paths, str(tmp_path / "out"), "--verify"]) == 0
    assert "same next token at 100.0%" in capsys.readouterr().out
    assert main([*paths, str(tmp_path / "short"), "--verify-prompt", "four"]) == 0
    assert "verified at 4 positions" in capsys.readouterr().out


def test_an_empty_prompt_is_refused(base: Path, adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="an empty text verifies nothing"):
        merge(base, [adapter], tmp_path / "out", prompts=[""])


def test_the_command_ends_with_1_when_verifying_fails(
    base: Path,
    adapter: Path,
    tmp_path: Path,
    wrong_scale: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    paths = ["--base", str(base), "--adapter", str(adapter), "--output", str(tmp_path / "out")]
    assert main([*paths, "--verify"]) == 1
    assert "error: the merged model is not base + adapters" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_grown_vocabularies_dora_and_adalora_are_verified_too(tmp_path: Path) -> None:
    base = tiny_llama(tmp_path / "base", dtype="float16")
    first = tiny_adapter(base, tmp_path / "first", 1, rows=70, modules_to_save=BOTH)
    second = tiny_adapter(base, tmp_path / "second", 2, rows=71, modules_to_save=BOTH)
    dora = tiny_adapter(base, tmp_path / "dora", use_dora=True)
    ada = adalora(base, tmp_path / "ada")
    for number, adapters in enumerate(([first, second], [dora], [first, ada])):
        assert merge(base, adapters, tmp_path / f"out{number}", prompts=PROMPTS).verdict


def test_what_peft_cannot_load_is_refused_by_name(tmp_path: Path) -> None:
    base = tiny_llama(tmp_path / "base")
    old = tiny_adapter(base, tmp_path / "old", rows=70, modules_to_save=BOTH)
    as_peft_0_2_wrote_it(old)
    with pytest.raises(TrainingError, match="old cannot be verified"):
        merge(base, [old], tmp_path / "out", prompts=PROMPTS)
    tied = tiny_llama(tmp_path / "tied", tie_word_embeddings=True)
    head = tiny_adapter(tied, tmp_path / "head", target_modules=["lm_head"])
    other = tiny_adapter(tied, tmp_path / "other")
    with pytest.raises(TrainingError, match="ties them cannot be verified"):
        merge(tied, [head, other], tmp_path / "out", prompts=PROMPTS)
    assert merge(tied, [other, head], tmp_path / "out", prompts=PROMPTS).verdict


def test_a_nan_in_the_logits_is_not_taken_for_agreement(base: Path, tmp_path: Path) -> None:
    adapter = tiny_adapter(base, tmp_path / "adapter")
    name = "model.norm.weight"
    edit_weights(base / "model.safetensors", lambda t: t[name].fill_(torch.finfo().max))
    with pytest.raises(UnfaithfulMergeError):
        merge(base, [adapter], tmp_path / "out", prompts=PROMPTS)
