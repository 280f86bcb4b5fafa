"""A run killed with SIGKILL at any moment and resumed ends as if nothing had happened."""

import json
import multiprocessing
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.chatglm import converted_base
from tests.models import weights
from tests.training.conftest import mixture
from training.train.__main__ import main

UPDATES = 6
LATEST = ["save_every=2", "eval_every=3", "keep_best=true"]
MODULES = [
    *("training.train.setup", "training.train.loop", "training.train.logbook"),
    *("torch.utils.tensorboard", "peft", "transformers.models.llama.modeling_llama"),
    "matplotlib.figure",
]
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(MODULES)  # imported once, not in every process


def train_in_process(
    recipe: Path, overrides: list[str], *, resume: bool = False, kill: str = ""
) -> int:
    """Train in a process of its own; return how it ended (-9: killed)."""
    process = CONTEXT.Process(target=_train, args=(recipe, overrides, resume, kill))
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def _train(recipe: Path, overrides: list[str], resume: bool, kill: str) -> None:
    from training.train import checkpoints, loop
    from training.train.config import load_config
    from training.train.job import train

    torch.set_num_threads(1)
    if kill:
        moment, number = kill.split()
        module, name = {
            "after": (loop, "_update"),
            "writing": (checkpoints, "write_adapter"),
            "removing": (shutil, "rmtree"),
        }[moment]
        _kill_at(module, name, int(number), before=moment == "removing")
    train(load_config(recipe, overrides), resume=resume)


def _kill_at(module: Any, name: str, call: int, *, before: bool) -> None:
    """SIGKILL this process at the `call`th call of `name`, before or after its work is done."""
    original, calls = getattr(module, name), 0

    def patched(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        result = None if before and calls == call else original(*arguments, **options)
        if calls == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(module, name, patched)


def log(run: Path) -> list[dict[str, float]]:
    entries = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in entry.items() if k != "samples_per_s"} for entry in entries]


def assert_equal_runs(left: Path, right: Path) -> None:
    first, second = weights(left), weights(right)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name
    runs = [path.with_name(f"{path.name}.run") for path in (left, right)]
    assert log(runs[0]) == log(runs[1])  # the same losses: the same samples at every update
    names = [sorted(path.name for path in run.glob("checkpoint-*")) for run in runs]
    assert names[0] == names[1]
    assert not [path for run in runs for path in run.glob(".*")]


@pytest.mark.parametrize(
    "kill",
    [
        *(f"after {update}" for update in range(1, UPDATES + 1)),
        *(f"writing {checkpoint}" for checkpoint in (1, 2, 3)),
        "removing 1",
    ],
)
def test_killed_anywhere_and_resumed_gives_the_same_weights_and_log(
    recipe: Path, tmp_path: Path, kill: str
) -> None:
    assert train_in_process(recipe, LATEST) == 0
    other = [f"output={tmp_path / 'other'}", *LATEST]
    assert train_in_process(recipe, other, kill=kill) == -signal.SIGKILL
    assert not (tmp_path / "other").exists()
    assert train_in_process(recipe, other, resume=True) == 0
    assert_equal_runs(tmp_path / "adapter", tmp_path / "other")


@pytest.mark.parametrize(
    "overrides",
    [
        ["lora.dora=true", "lora.modules_to_save=[lm_head]", "data.batching=packed"],
        ["lora=null", "adalora={init_r: 4, target_r: 2, tinit: 1, tfinal: 1}"],
        ["lora=null", "prefix={tokens: 3, projection: true, projection_size: 8}"],
        ["optim.micro_batch=1", "gradient_checkpointing=true"],
        ["MIXTURE", "optim.steps=7"],
        ["model=CHATGLM", "lora=null", "prefix={tokens: 3, projection: true, projection_size: 8}"],
    ],
    ids=["dora", "adalora", "prefix", "accumulated", "mixture", "p-tuning"],
)
def test_every_kind_of_adapter_resumes_exactly(
    recipe: Path, tmp_path: Path, overrides: list[str]
) -> None:
    if "model=CHATGLM" in overrides:
        model = converted_base(tmp_path / "chatglm")
        overrides = [f"model={model}", "template=chatglm", *overrides[1:]]
    overrides = [mixture(tmp_path, 2, 1.3) if each == "MIXTURE" else each for each in overrides]
    assert train_in_process(recipe, overrides) == 0
    overrides = [f"output={tmp_path / 'other'}", *overrides]
    assert train_in_process(recipe, overrides, kill="after 5") == -signal.SIGKILL
    assert train_in_process(recipe, overrides, resume=True) == 0
    assert_equal_runs(tmp_path / "adapter", tmp_path / "other")


def test_a_mixture_in_other_shares_is_another_run(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train_in_process(recipe, [mixture(tmp_path, 2, 1)], kill="after 5") == -signal.SIGKILL
    assert main(["--config", str(recipe), mixture(tmp_path, 2, 3), "--resume"]) == 2
    assert "data.train" in capsys.readouterr().err


def test_settings_that_came_later_or_change_nothing_do_not_hinder_a_continuation(
    recipe: Path, tmp_path: Path
) -> None:
    assert train_in_process(recipe, [], kill="after 5") == -signal.SIGKILL
    record = tmp_path / "adapter.run" / "training.yaml"
    settings = yaml.safe_load(record.read_text())
    for name in ("format", "learn", "limit", "system", "test"):
        del settings["data"][name]
    del settings["thinking"], settings["train_thoughts"]
    record.write_text(yaml.safe_dump(settings))
    test = f"data.test={tmp_path / 'more.json'}"
    assert train_in_process(recipe, [test, "data.learn=all"], resume=True) == 1
    assert train_in_process(recipe, [test], resume=True) == 0


def test_what_was_logged_beyond_the_checkpoint_is_taken_back(recipe: Path, tmp_path: Path) -> None:
    assert train_in_process(recipe, [], kill="after 6") == -signal.SIGKILL
    assert train_in_process(recipe, ["save_every=3"], resume=True) == 0
    assert [entry["update"] for entry in log(tmp_path / "adapter.run")] == [1, 2, 3, 4, 5, 6]


def test_a_run_killed_before_its_first_checkpoint_starts_anew(recipe: Path, tmp_path: Path) -> None:
    assert train_in_process(recipe, ["save_every=6"]) == 0
    first = weights(tmp_path / "adapter")
    shutil.rmtree(tmp_path / "adapter")
    shutil.rmtree(tmp_path / "adapter.run" / "checkpoint-6")
    assert train_in_process(recipe, ["save_every=6"], resume=True) == 0
    second = weights(tmp_path / "adapter")
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
