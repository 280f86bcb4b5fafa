"""Whatever a power cut leaves of a run, resuming works or says what to do; foreign files stay."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.models import weights
from tests.training.conftest import write_recipe
from tests.training.train.test_resume import log
from training.data.settings import Source
from training.errors import TrainingError
from training.train.checkpoints import RunProgress, forget_lost_best, newest, set_broken_aside
from training.train.config import load_config
from training.train.job import train
from training.train.record import find_checkpoints

FILES = ("state.pt", "adapter_model.safetensors", "adapter_config.json", "sums.json")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, base_model: Path) -> Path:
    """A folder with the recipe of a run, its output `adapter`, and `adapter.run` as it ended."""
    folder = tmp_path_factory.mktemp("whole")
    torch.set_num_threads(1)
    train(load_config(write_recipe(folder, base_model), []))
    return folder


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    """A copy of the run's folder, without the last checkpoint; to go on with `resumed`."""
    shutil.copytree(whole / "adapter.run", tmp_path / "adapter.run")
    shutil.rmtree(tmp_path / "adapter.run/checkpoint-6")
    shutil.copytree(whole / "adapter.run/checkpoint-4", tmp_path / "adapter.run/checkpoint-2")
    return tmp_path / "adapter.run"


def resumed(whole: Path, run: Path, *overrides: str) -> Path:
    torch.set_num_threads(1)
    output = f"output={run.with_suffix('')}"
    return train(load_config(whole / "recipe.yaml", [output, *overrides]), resume=True)


def assert_same(left: Path, right: Path) -> None:
    first, second = weights(left), weights(right)
    assert first.keys() == second.keys()
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(name=st.sampled_from(FILES), share=st.floats(0, 1, exclude_max=True), flip=st.booleans())
def test_a_checkpoint_cut_at_any_length_or_with_any_byte_changed_is_set_aside(
    run: Path, name: str, share: float, flip: bool
) -> None:
    path = run / "checkpoint-4" / name
    content = path.read_bytes()
    place = int(share * len(content))
    changed = content[:place]
    if flip:
        changed += bytes([content[place] ^ 0xFF]) + content[place + 1 :]
    path.write_bytes(changed)
    lines = set_broken_aside(run)
    aside = [each for each in run.iterdir() if each.name.startswith("broken-checkpoint-4-")]
    assert [place.name for place in aside] == [line.rpartition(" ")[2] for line in lines]
    assert len(lines) == 1
    assert str(run / "checkpoint-4") in lines[0]
    assert newest(run) == run / "checkpoint-2"
    (aside[0] / name).write_bytes(content)  # as it was, for the next example
    aside[0].rename(run / "checkpoint-4")
    assert set_broken_aside(run) == []


@pytest.mark.parametrize("damage", [*FILES, "all of them", "the whole folder"])
def test_a_broken_newest_checkpoint_falls_back_to_the_one_before(
    whole: Path, run: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(run / "checkpoint-2")
    shutil.copytree(whole / "adapter.run/checkpoint-4", run / "checkpoint-5")
    for path in [*(run / "checkpoint-5").iterdir()]:
        if damage == "the whole folder":
            path.unlink()
        elif damage in ("all of them", path.name):
            path.write_bytes(b"\0" * path.stat().st_size)  # what a disk may hold after a power cut
    adapter = resumed(whole, run)
    told = capsys.readouterr().out
    assert f"warning: {run}/checkpoint-5 is damaged" in told
    assert f"resuming from {run}/checkpoint-4" in told
    assert_same(whole / "adapter", adapter)


def test_without_a_whole_checkpoint_it_begins_anew_and_says_so(
    whole: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for _, path in find_checkpoints(run):
        (path / "state.pt").unlink()
    adapter = resumed(whole, run)
    told = capsys.readouterr().out
    assert told.count("is damaged") == 2
    assert "no checkpoint yet: starting anew" in told
    assert_same(whole / "adapter", adapter)


def test_a_checkpoint_of_a_version_without_sums_is_gone_on_from(
    whole: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "checkpoint-4/sums.json").unlink()
    (run / "inputs.json").unlink()
    adapter = resumed(whole, run)
    assert f"resuming from {run}/checkpoint-4" in capsys.readouterr().out
    assert_same(whole / "adapter", adapter)


def test_what_a_rename_that_was_undone_leaves_is_removed(whole: Path, run: Path) -> None:
    (run / "checkpoint-4").rename(run / ".checkpoint-4.tmp-77-abc")
    (run / "checkpoint-2").rename(run / ".checkpoint-2")
    assert_same(whole / "adapter", resumed(whole, run))
    assert not [path.name for path in run.iterdir() if path.name.startswith(".checkpoint")]


@pytest.mark.parametrize(
    "name",
    ["checkpoint-best", "checkpoint-20-backup", "checkpoint-", "checkpoint-4.zip", "checkpoint-１"],
)
def test_foreign_files_and_folders_beside_the_checkpoints_are_passed_over(
    whole: Path, run: Path, name: str
) -> None:
    shutil.copytree(run / "checkpoint-4", run / name)
    (run / "checkpoint-99").write_text("a file")
    adapter = resumed(whole, run, "save_keep=1", "save_every=1")
    assert_same(whole / "adapter", adapter)
    assert (run / name / "state.pt").is_file()
    assert [update for update, _ in find_checkpoints(run)] == [6]


@pytest.mark.parametrize(
    ("name", "remedy"),
    [("training.yaml", "put it back, or choose another output"), ("inputs.json", "not valid JSON")],
)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_record_cut_short_is_named(
    whole: Path, run: Path, name: str, remedy: str, share: float
) -> None:
    text = (run / name).read_bytes()
    (run / name).write_bytes(text[: int(share * len(text))])
    told = ""
    try:
        adapter = resumed(whole, run)
    except TrainingError as error:
        told = str(error)
    if told:
        assert (name in told and remedy in told) or "put the old values back" in told
    else:
        assert_same(whole / "adapter", adapter)


@pytest.mark.parametrize(
    "tail", ["", '{"update": 5, "lo', "\0\0\0", '{"loss": 1}', '{"update": 5, "loss": "x"}', "1e9"]
)
def test_a_log_with_a_torn_end_is_gone_on_with(whole: Path, run: Path, tail: str) -> None:
    path = run / "log.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:4], tail]))
    resumed(whole, run)
    assert log(run) == log(whole / "adapter.run")


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        (lambda folder: folder / "train.json", "data.eval, data.train"),
        (lambda folder: folder / "base/tokenizer_config.json", r"model \(base when it started\)"),
        (lambda folder: folder / "base/model.safetensors", r"model \(base when it started\)"),
        (lambda folder: folder / "mine.jinja", "template"),
    ],
)
def test_other_contents_under_the_same_names_are_no_continuation(
    tmp_path: Path, base_model: Path, changed: Callable[[Path], Path], named: str
) -> None:
    base = Path(shutil.copytree(base_model, tmp_path / "base"))
    template = Path("training/templates/llama.jinja").resolve()
    shutil.copy(template, tmp_path / "mine.jinja")
    recipe = write_recipe(tmp_path, base)
    config = load_config(recipe, [f"template={tmp_path}/mine.jinja"])
    train(config)
    shutil.rmtree(tmp_path / "adapter")
    path = changed(tmp_path)
    content = path.read_bytes()
    other = content[:-3] + bytes([content[-3] ^ 1]) + content[-2:]
    path.write_bytes(content + b" " if path.suffix == ".json" else other)
    with pytest.raises(TrainingError, match=f"the contents of {named} changed since it started"):
        train(config, resume=True)
    path.write_bytes(content)
    train(config, resume=True)


def test_files_that_moved_unchanged_are_a_continuation(tmp_path: Path, base_model: Path) -> None:
    """As a base of a hub does, whose name at a revision stands in for its name."""
    base = Path(shutil.copytree(base_model, tmp_path / "base"))
    config = load_config(write_recipe(tmp_path, base), ["data.eval=null"])
    train(config)
    shutil.rmtree(tmp_path / "adapter")
    base.rename(tmp_path / "moved")
    (tmp_path / "moved/notes.json").write_text("{}")
    (tmp_path / "train.json").rename(tmp_path / "rows.json")
    moved = {
        "model": tmp_path / "moved",
        "data": config.data.model_copy(update={"train": [Source(path=tmp_path / "rows.json")]}),
    }
    assert train(config.model_copy(update=moved), resume=True) == tmp_path / "adapter"


def test_a_finished_adapter_of_other_data_is_not_passed_off_as_this_one(
    tmp_path: Path, base_model: Path
) -> None:
    config = load_config(write_recipe(tmp_path, base_model), [])
    train(config)
    train(config, if_started=True)
    with (tmp_path / "train.json").open("a") as file:
        file.write("\n" + json.dumps({"input": "a", "target": "b"}))
    with pytest.raises(TrainingError, match=r"other contents of data.eval, data.train"):
        train(config, if_started=True)


def test_a_lost_best_checkpoint_is_told_and_no_longer_counts(run: Path) -> None:
    progress = RunProgress(4, best_update=2, best_loss=1.5, stale=2)
    assert forget_lost_best(run, progress) is None
    assert progress == RunProgress(4, 2, 1.5, 2)
    (run / "checkpoint-2/state.pt").write_bytes(b"")
    line = forget_lost_best(run, progress)
    assert "state.pt is not as it was written" in str(line)
    assert progress == RunProgress(4)
    assert forget_lost_best(run, progress) is None
