"""A recipe is checked before anything is loaded; a message names file, line, key and remedy."""

from pathlib import Path

import pytest

from tests.paths import ROOT
from training.errors import TrainingError
from training.train.config import load_config

RECIPES = sorted((ROOT / "training" / "recipes").glob("*.yaml"))
GOOD = """\
model: base
output: adapter
lora: {}
data:
  train: train.json
optim:
  steps: 10
  lr: 1e-4
"""
PREFIX = GOOD.replace("lora: {}", "prefix: {}")


def load(tmp_path: Path, text: str, *overrides: str) -> object:
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return load_config(path, list(overrides))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_shipped_recipe_loads(recipe: Path) -> None:
    load_config(recipe, [])


def test_a_learning_rate_without_a_dot_is_a_number(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(GOOD, encoding="utf-8")
    assert load_config(path, []).optim.lr == 1e-4  # YAML 1.1 alone reads a string
    assert load_config(path, ["optim.lr=3e-5", "lora.r=16"]).optim.lr == 3e-5


@pytest.mark.parametrize(
    ("text", "overrides", "parts"),
    [
        (GOOD + "  lerning_rate: 1\n", [], ["recipe.yaml:9", "optim.lerning_rate", "known", "lr"]),
        (GOOD + "sed: 1\n", [], ["recipe.yaml:9", "'sed'", "seed"]),
        (GOOD, ["lora.rank=4"], ["override 'lora.rank=4'", "known", "r,"]),
        (GOOD, ["optim.lr=-1"], ["override 'optim.lr=-1'", "greater than 0"]),
        (GOOD.replace("steps: 10", "steps: many"), [], ["recipe.yaml:7", "optim.steps", "many"]),
        (GOOD.replace("  steps: 10\n", ""), [], ["recipe.yaml:6", "exactly one of"]),
        (GOOD, ["optim.epochs=2"], ["exactly one of 'steps' and 'epochs'"]),
        (GOOD.replace("model: base\n", ""), [], ["recipe.yaml:1", "model", "required"]),
        (GOOD.replace("lora: {}\n", ""), [], ["recipe.yaml:1", "exactly one of the sections"]),
        (GOOD, ["prefix.tokens=4"], ["exactly one of the sections 'lora', 'adalora' and 'prefix'"]),
        (GOOD, ["keep_best=true"], ["keep_best and patience need eval_every and data.eval"]),
        (GOOD, ["patience=2", "eval_every=5"], ["need eval_every and data.eval"]),
        (PREFIX, ["data.batching=packed"], ["use data.batching=grouped"]),
        (PREFIX, ["parallel=fsdp"], ["use parallel=ddp"]),
        (GOOD, ["parallel=fsdp", "precision=fp16"], ["use precision=bf16"]),
        (PREFIX, ["prefix.length=4"], ["override 'prefix.length=4'", "known here: projection"]),
        (GOOD, ["lora"], ["override 'lora'", "key=value"]),
        ("- a\n- b\n", [], ["recipe.yaml", "mapping"]),
        ("model: [\n", [], ["recipe.yaml", "not valid YAML"]),
    ],
)
def test_a_bad_recipe_is_refused_with_its_line(
    tmp_path: Path, text: str, overrides: list[str], parts: list[str]
) -> None:
    with pytest.raises(TrainingError) as caught:
        load(tmp_path, text, *overrides)
    for part in parts:
        assert part in str(caught.value)


def test_a_missing_recipe_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"nowhere\.yaml"):
        load_config(tmp_path / "nowhere.yaml", [])
