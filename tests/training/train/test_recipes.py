"""Every shipped recipe runs: a few updates with its own settings, on a tiny model."""

import json
from pathlib import Path

import pytest

from tests.chatglm import converted_base
from tests.paths import ROOT
from training.train.config import load_config
from training.train.job import train

RECIPES = sorted((ROOT / "training" / "recipes").glob("*.yaml"))
# no more than what makes it short and lets it run without a GPU or the real data
SHORT = {
    **{"optim.steps": "3", "optim.epochs": "null", "precision": "fp32"},
    **{"eval_every": "2", "save_every": "2", "log_every": "1"},
}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_trains_a_few_updates(
    path: Path, recipe: Path, wide_base: Path, tmp_path: Path
) -> None:
    base, data, template = wide_base, tmp_path / "train.json", "llama"
    if path.stem.startswith("chatglm_"):
        base, template = converted_base(tmp_path / "chatglm"), "null"
    changes = {
        **SHORT,
        **{"model": base, "output": tmp_path / "adapter"},
        **{"data.train": data, "data.eval": data, "template": template},
    }
    settings = load_config(path, [])
    if settings.adalora:
        changes |= {"adalora.tinit": "1", "adalora.tfinal": "1", "adalora.delta_t": "1"}
    train(load_config(path, [f"{key}={value}" for key, value in changes.items()]))
    written = "model.safetensors" if settings.full else "adapter_model.safetensors"
    assert (tmp_path / "adapter" / written).is_file()
    lines = (tmp_path / "adapter.run" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["update"] for line in lines if '"loss"' in line] == [1, 2, 3]
    assert [json.loads(line)["update"] for line in lines if "eval_loss" in line] == [2, 3]


def test_the_recipes_of_the_original_are_there() -> None:
    llama = {"llama_lora", "llama_prefix", "llama_adalora"}
    assert llama | {"chatglm_lora", "chatglm_ptuning"} <= {path.stem for path in RECIPES}
