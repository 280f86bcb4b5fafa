"""Merging adapters that were learnt on a quantised base: what is said, and what is refused."""

import json
from pathlib import Path

import pytest

from tests.models import weights
from training.merge.__main__ import main as merge
from training.train.__main__ import main as train
from training.weights.blockwise import dequantised

LONG = ["optim.steps=12", "optim.lr=1e-2", "log_every=1", "save_every=12", "lora.dropout=0"]


@pytest.fixture
def base_model(wide_base: Path) -> Path:
    """In place of the one that other tests train on."""
    return wide_base


def trained(recipe: Path, *overrides: str) -> Path:
    assert train(["--config", str(recipe), *overrides]) == 0
    return recipe.with_name("adapter")


def test_merging_says_how_far_the_base_is_from_the_one_learnt_on(
    recipe: Path, base_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = trained(recipe, "quantization=nf4", "lora.targets=[q_proj, down_proj]", *LONG)
    out, arguments = tmp_path / "out", ["--base", str(base_model), "--adapter", str(adapter)]
    assert merge([*arguments, "--output", str(out), "--verify"]) == 0
    printed = capsys.readouterr().out
    assert "24 evaluation rows of its run" in printed
    plain, merged = weights(base_model), weights(out)
    names = [name for name in plain if "q_proj" in name or "down_proj" in name]
    error, change = 0.0, 0.0
    for name in names:
        (values,) = dequantised("nf4", [plain[name]])
        error += float((plain[name].double() - values).square().sum())
        change += float((merged[name].double() - plain[name]).square().sum())
    told = json.loads((out / "provenance.json").read_text())["learnt_on"]
    assert told["adapters"] == {"adapter": {"scheme": "nf4", "dtype": "float32"}}
    assert told["merged_into"] == "in full"
    assert told["error_to_change"]["adapter"] == pytest.approx((error / change) ** 0.5, rel=1e-4)
    assert f"= {told['error_to_change']['adapter']:.3g} over the layers it changes" in printed


def test_merging_into_the_dequantised_base_needs_to_know_which(
    recipe: Path, base_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = trained(recipe)
    arguments = ["--base", str(base_model), "--adapter", str(adapter), "--into", "dequantised"]
    assert merge([*arguments, "--output", str(tmp_path / "out")]) == 2
    assert "not trained on one and the same quantised base" in capsys.readouterr().err
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_damaged_record_is_refused(
    recipe: Path, base_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = trained(recipe, "quantization=int8")
    arguments = ["--base", str(base_model), "--adapter", str(adapter)]
    for text in ('{"scheme": "nf5", "dtype": "float32"}', '{"scheme": "nf4"}', "[]"):
        (adapter / "quantization.json").write_text(text)
        assert merge([*arguments, "--output", str(tmp_path / "out")]) == 2
        assert "quantization.json" in capsys.readouterr().err
