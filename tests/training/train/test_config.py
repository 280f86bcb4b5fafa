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
        (GOOD, ["prefix.tokens=4"], ["exactly one of the sections lora, adalora, prefix, full"]),
        (GOOD, ["keep_best=true"], ["keep_best and patience need eval_every and data.eval"]),
        (GOOD, ["patience=2", "eval_every=5"], ["need eval_every and data.eval"]),
        (PREFIX, ["data.batching=packed"], ["use data.batching=grouped"]),
        (PREFIX, ["parallel=fsdp"], ["use parallel=ddp"]),
        (GOOD, ["parallel=fsdp", "precision=fp16"], ["use precision=bf16"]),
        (PREFIX, ["prefix.length=4"], ["override 'prefix.length=4'", "known here: projection"]),
        (GOOD, ["lora"], ["override 'lora'", "key=value"]),
        (
            GOOD,
            ["data.train=[{path: a.json, wieght: 2}]"],
            ["unknown key 'data.train.0.wieght'", "known here: cap, format"],
        ),
        (
            GOOD,
            ["data.train=[{path: a.json, path: b.json}]"],
            ["'path' is there more than once"],
        ),
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


@pytest.mark.parametrize("name", [path.stem for path in RECIPES])
def test_a_shipped_recipe_is_found_by_name_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_config(Path(name), ["output=here"]).output == Path("here")


def test_a_file_goes_before_a_shipped_recipe_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("llama_lora").mkdir()
    assert load_config(Path("llama_lora"), []).output.name == "llama-7b-promptcblue"
    Path("llama_lora").rmdir()
    Path("llama_lora").write_text(GOOD)
    assert load_config(Path("llama_lora"), []).output == Path("adapter")


@pytest.mark.parametrize("template", ["lama", "nowhere.jinja", "''"])
def test_a_template_that_is_not_there_is_refused_with_its_line(
    tmp_path: Path, template: str
) -> None:
    with pytest.raises(
        TrainingError, match=r"recipe\.yaml:9: template .*chatglm2, chatglm3, llama"
    ):
        load(tmp_path, GOOD + f"template: {template}\n")


@pytest.mark.parametrize("name", ["lama_lora", "llama_lora.yaml", "recipes/llama_lora", "."])
def test_an_unknown_recipe_names_the_known_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TrainingError, match=r"no such recipe.*chatglm_ptuning.*llama_lora"):
        load_config(Path(name), [])


@pytest.mark.parametrize(
    "text", ["2024-01-01", "007", "1e3", "yes", "0x1f", "1_000", "12:30:45", "3.10", "=", "<<"]
)
def test_what_yaml_takes_for_a_number_or_a_date_is_text_where_text_is_wanted(
    tmp_path: Path, text: str
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(GOOD.replace("adapter", text))
    assert load_config(path, []).output == Path(text)
    config = load_config(path, [f"model={text}", f"lora.targets=[{text}, b]"])
    assert config.model == Path(text)
    assert config.lora
    assert config.lora.targets == [text, "b"]


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (GOOD.encode() + b"seed: 1\nseed: 2\n", ["recipe.yaml:9", "'seed'", "more than once"]),
        (GOOD.encode() + b"  lr: 2\n", ["recipe.yaml:8", "'lr'", "more than once"]),
        (GOOD.encode("utf-16"), ["recipe.yaml is not UTF-8"]),
        (b"model: \xff", ["recipe.yaml is not UTF-8"]),
        (b"a: " + b"[" * 20_000, ["recipe.yaml", "not valid YAML"]),
        (b"", ["recipe.yaml", "mapping"]),
        (GOOD.replace("1e-4", "inf").encode(), ["optim.lr", "finite"]),
    ],
)
def test_a_broken_recipe_is_refused(tmp_path: Path, content: bytes, parts: list[str]) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content)
    with pytest.raises(TrainingError) as caught:
        load_config(path, [])
    for part in parts:
        assert part in str(caught.value)


def test_a_broken_override_is_refused() -> None:
    with pytest.raises(TrainingError, match=r"override 'lora.targets=\[a': not valid YAML"):
        load_config(Path("llama_lora"), ["lora.targets=[a"])
