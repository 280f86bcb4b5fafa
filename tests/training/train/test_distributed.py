"""Two processes under torchrun train what one trains, with whole or with shared weights."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.models import weights
from tests.training.conftest import mixture, write_recipe

RUN = ["lora.dropout=0", "optim.steps=20", "optim.lr=1e-3", "save_every=10", "eval_every=10"]


def torchrun(recipe: Path, *arguments: str, processes: int = 2) -> subprocess.CompletedProcess[str]:
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
        *(f"--nproc-per-node={processes}", "-m", "training.train", "--config", str(recipe)),
    ]
    return subprocess.run(
        [*command, *arguments],
        capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def furthest(left: Path, right: Path) -> float:
    first, second = weights(left), weights(right)
    assert first.keys() == second.keys()
    return max((tensor - second[name]).abs().max().item() for name, tensor in first.items())


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, base_model: Path) -> Path:
    """A folder with recipe.yaml and what one and two processes made of it: one, ddp, fsdp."""
    folder = tmp_path_factory.mktemp("runs")
    recipe = write_recipe(folder, base_model)
    for name, processes, overrides in (
        ("one", 1, []),
        ("ddp", 2, []),
        ("fsdp", 2, ["parallel=fsdp", "optim.micro_batch=1", "gradient_checkpointing=true"]),
    ):
        settings = [f"output={folder / name}", mixture(folder, 2, 1.3), *RUN, *overrides]
        ended = torchrun(recipe, *settings, processes=processes)
        assert ended.returncode == 0, ended.stderr
        assert ended.stdout.count("adapter written to") == 1
    return folder


def losses(adapter: Path) -> list[float]:
    """What the run logged as loss and eval_loss, in order."""
    lines = (adapter.with_name(f"{adapter.name}.run") / "log.jsonl").read_text().splitlines()
    return [v for line in lines for k, v in json.loads(line).items() if k in ("loss", "eval_loss")]


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_equal_one(runs: Path, parallel: str) -> None:
    assert furthest(runs / "one", runs / parallel) <= 1e-5
    assert losses(runs / parallel) == pytest.approx(losses(runs / "one"), abs=1e-4)
    assert len(losses(runs / "one")) == 22


@pytest.mark.parametrize(
    ("before", "processes", "after"),
    [("fsdp", 1, "parallel=ddp"), ("one", 2, "parallel=fsdp"), ("fsdp", 2, "parallel=ddp")],
)
def test_a_run_goes_on_with_another_number_of_processes(
    runs: Path, tmp_path: Path, before: str, processes: int, after: str
) -> None:
    shutil.copytree(runs / f"{before}.run", tmp_path / "moved.run")
    shutil.rmtree(tmp_path / "moved.run" / "checkpoint-20")
    settings = [f"output={tmp_path / 'moved'}", mixture(runs, 2, 1.3), *RUN, after]
    ended = torchrun(runs / "recipe.yaml", *settings, "--resume", processes=processes)
    assert ended.returncode == 0, ended.stderr
    assert "checkpoint-10" in ended.stdout
    assert furthest(runs / "one", tmp_path / "moved") <= 1e-5


def test_a_batch_that_cannot_be_shared_is_refused_once(recipe: Path, tmp_path: Path) -> None:
    ended = torchrun(recipe, "optim.batch_size=5")
    assert ended.returncode != 0
    message = "optim.batch_size=5 samples an update cannot be shared equally by 2 processes"
    assert ended.stderr.count(message) == 1
    assert not (tmp_path / "adapter.run").exists()


def test_fsdp_without_torchrun_says_how(recipe: Path, tmp_path: Path) -> None:
    ended = torchrun(recipe, "parallel=fsdp", processes=1)
    assert "start them with torchrun" in ended.stderr
