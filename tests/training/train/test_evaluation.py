"""Evaluation during a run: the best adapter is kept, patience ends the run, losses are drawn."""

import json
import re
import shutil
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.models import weights
from training.errors import TrainingError
from training.train.config import load_config
from training.train.job import train

OVERFITTING = [
    *("optim.steps=12", "optim.lr=5e-2", "optim.schedule=constant", "eval_every=1"),
    "lora.modules_to_save=[embed_tokens, lm_head]",
]


@pytest.fixture
def overfitting(recipe: Path, tmp_path: Path) -> list[str]:
    """Overrides for a run whose evaluation, on answers it never sees, gets worse after a while."""
    rows = [json.loads(line) for line in (tmp_path / "train.json").read_text().splitlines()]
    lines = [json.dumps({**row, "target": "多喝水"}) for row in rows]
    (tmp_path / "eval.json").write_text("\n".join(lines))
    return [*OVERFITTING, f"data.eval={tmp_path / 'eval.json'}"]


def evaluations(run: Path) -> dict[int, float]:
    entries = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return {entry["update"]: entry["eval_loss"] for entry in entries if "eval_loss" in entry}


def test_the_adapter_of_the_lowest_evaluation_loss_is_written(
    recipe: Path, tmp_path: Path, overfitting: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    train(load_config(recipe, [*overfitting, "keep_best=true", "save_every=5", "save_keep=1"]))
    losses = evaluations(tmp_path / "adapter.run")
    best = min(losses, key=losses.__getitem__)
    assert len(losses) == 12
    assert best < 12
    names = {path.name for path in (tmp_path / "adapter.run").glob("checkpoint-*")}
    assert names == {f"checkpoint-{best}", "checkpoint-12"}
    written = weights(tmp_path / "adapter")
    kept = weights(tmp_path / "adapter.run" / f"checkpoint-{best}")
    assert all(bool((tensor == kept[name]).all()) for name, tensor in written.items())
    said = re.search(r"lowest evaluation loss: (\S+) at update (\d+)", capfd.readouterr().out)
    assert said
    assert float(said[1]) == pytest.approx(losses[best], abs=1e-4)
    assert int(said[2]) == best


def test_patience_ends_the_run_and_resuming_does_not_lengthen_it(
    recipe: Path, tmp_path: Path, overfitting: list[str]
) -> None:
    overrides = [*overfitting, "patience=2"]
    train(load_config(recipe, overrides))
    losses = evaluations(tmp_path / "adapter.run")
    best = min(losses, key=losses.__getitem__)
    assert len(losses) == best + 2 < 12
    shutil.rmtree(tmp_path / "adapter")
    train(load_config(recipe, overrides), resume=True)
    assert evaluations(tmp_path / "adapter.run") == losses


def test_losses_are_logged_for_tensorboard_and_drawn(recipe: Path, tmp_path: Path) -> None:
    train(load_config(recipe, ["eval_every=3"]))
    assert (tmp_path / "adapter" / "loss.png").read_bytes().startswith(b"\x89PNG")
    board = EventAccumulator(str(tmp_path / "adapter.run" / "tensorboard")).Reload()
    assert [event.step for event in board.Scalars("loss")] == [1, 2, 3, 4, 5, 6]
    assert [event.step for event in board.Scalars("eval_loss")] == [3, 6]
    lines = (tmp_path / "adapter.run" / "log.jsonl").read_text().splitlines()
    logged = [json.loads(line)["loss"] for line in lines if '"loss"' in line]
    assert [event.value for event in board.Scalars("loss")] == pytest.approx(logged)


def test_a_loss_that_is_no_number_ends_the_run_with_a_remedy(recipe: Path) -> None:
    with pytest.raises(TrainingError, match=r"the loss is nan at update \d+: lower optim.lr"):
        train(load_config(recipe, ["optim.lr=1e30", "optim.max_grad_norm=1e30"]))
