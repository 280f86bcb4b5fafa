"""Checkpoints of a run: complete or not there, enough of them kept, everything resuming needs."""

import shutil
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch.amp import GradScaler
from torch.optim import Optimizer

from training.errors import TrainingError
from training.files import read_json, sha256, write_aside, write_json
from training.train.distributed import Processes, assign, gather
from training.train.methods.adapters import TunedModel, trainable, write_adapter
from training.train.record import find_checkpoints

STATE = "state.pt"
PARTS = {"progress", "weights", "optimizer", "scaler", "ranks"}
SUMS = "sums.json"


@dataclass
class RunProgress:
    """How far a run has come."""

    update: int = 0
    best_update: int | None = None
    """Where the lowest evaluation loss was."""
    best_loss: float = float("inf")
    stale: int = 0
    """Evaluations since then."""

    def take(self, loss: float) -> bool:
        """Note an evaluation's loss; whether it is the lowest so far."""
        if loss < self.best_loss:
            self.best_update, self.best_loss, self.stale = self.update, loss, 0
            return True
        self.stale += 1
        return False


def save(
    folder: Path,
    model: TunedModel,
    optimizer: Optimizer,
    scaler: GradScaler,
    progress: RunProgress,
    processes: Processes,
) -> None:
    """Write `folder`/checkpoint-UPDATE: an adapter that peft loads, and state.pt for resuming.

    Every process must call this; the first one writes.
    """
    parameters = trainable(model)
    weights = gather(parameters, processes)
    moments = {name: gather(optimizer.state[p], processes) for name, p in parameters.items()}
    if processes.first:
        with write_aside(folder / f"checkpoint-{progress.update}", durable=True) as aside:
            write_adapter(model, weights, aside)
            state = {
                "progress": asdict(progress),
                "weights": weights,
                "optimizer": moments,
                "scaler": scaler.state_dict(),
                "ranks": _ranks(model),
            }
            torch.save(state, aside / STATE)
            write_json(aside / SUMS, {path.name: sha256(path) for path in aside.iterdir()})
    processes.wait()


def newest(folder: Path) -> Path | None:
    """The complete checkpoint that is furthest."""
    checkpoints = find_checkpoints(folder)
    return checkpoints[-1][1] if checkpoints else None


def set_broken_aside(folder: Path) -> list[str]:
    """Rename the newest checkpoints that the disk did not keep, up to one that is whole.

    Returns a line about each, for the user.
    """
    lines = []
    for _, path in reversed(find_checkpoints(folder)):
        damage = _damage(path)
        if damage is None:
            break
        aside = path.with_name(f"broken-{path.name}-{time.time_ns()}")
        path.rename(aside)
        lines.append(f"{path} is damaged ({damage}): it is now {aside.name}")
    return lines


def _damage(checkpoint: Path) -> str | None:
    """What is wrong with it, None when every byte is as it was written."""
    try:
        if not (checkpoint / SUMS).exists():  # of a version that wrote none
            _read(checkpoint)
            return None
        sums = read_json(checkpoint / SUMS)
        return next(
            (
                f"{name} is not as it was written"
                for name, digest in sums.items()
                if sha256(checkpoint / name) != digest
            ),
            None,
        )
    except (OSError, TrainingError) as error:
        return str(error)


def forget_lost_best(folder: Path, progress: RunProgress) -> str | None:
    """Where the checkpoint of the lowest loss is not there whole, go on as if it had not been.

    Returns a line about it, for the user.
    """
    best = folder / f"checkpoint-{progress.best_update}"
    if progress.best_update is None or (damage := _damage(best)) is None:
        return None
    progress.best_update, progress.best_loss, progress.stale = None, float("inf"), 0
    return f"the adapter of the lowest loss so far is lost ({damage}): the next lowest will count"


def load(
    checkpoint: Path, model: TunedModel, optimizer: Optimizer, scaler: GradScaler
) -> RunProgress:
    """Put weights, optimiser and the ranks' history back as `save` found them."""
    state = _read(checkpoint)
    parameters = trainable(model)
    _assign_weights(parameters, state["weights"])
    for name, p in parameters.items():
        optimizer.state[p] = {
            key: _restored(p, value) for key, value in state["optimizer"][name].items()
        }
    scaler.load_state_dict(state["scaler"])
    _restore_ranks(model, state["ranks"])
    return RunProgress(**state["progress"])


def load_weights(checkpoint: Path, model: TunedModel) -> None:
    """Put the weights of `checkpoint` alone into `model`."""
    state = _read(checkpoint)
    _assign_weights(trainable(model), state["weights"])
    _restore_ranks(model, state["ranks"])


def prune(folder: Path, keep: int, best: int | None) -> None:
    """Remove all but the newest `keep` checkpoints and the best one."""
    _remove(path for update, path in find_checkpoints(folder)[:-keep] if update != best)


def remove_unfinished(folder: Path) -> None:
    """Remove what a kill in the middle of writing left behind."""
    _remove(folder.glob(".checkpoint-*"))


def _remove(folders: Iterable[Path]) -> None:
    for path in folders:
        # renamed first: a checkpoint removed half-way must not pass for a complete one
        gone = path.with_name(f".{path.name.lstrip('.')}")
        path.rename(gone)
        shutil.rmtree(gone)


def _read(checkpoint: Path) -> dict[str, Any]:
    try:
        state: Any = torch.load(
            checkpoint / STATE, map_location="cpu", weights_only=True, mmap=True
        )
    except Exception as error:  # torch raises what unpickling damaged bytes happens to raise
        raise TrainingError(f"cannot read {checkpoint / STATE}: {error}") from error
    if not isinstance(state, dict) or not state.keys() >= PARTS:
        raise TrainingError(f"{checkpoint / STATE} does not hold the state of a run")
    return state


def _assign_weights(
    parameters: dict[str, torch.nn.Parameter], weights: dict[str, torch.Tensor]
) -> None:
    for name, p in parameters.items():
        assign(p, weights[name])


def _restored(parameter: torch.Tensor, value: Any) -> Any:
    """A moment laid out as the parameter; a count, a moment in 8 bits or its scales as they are."""
    if not isinstance(value, torch.Tensor):
        return value
    if value.shape == parameter.shape and value.is_floating_point():
        return _like(parameter, value)
    return value.to(parameter.device, copy=True)


def _like(parameter: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    made = torch.empty_like(parameter, requires_grad=False)
    assign(made, value)
    return made


def _ranks(model: PeftModel) -> dict[str, Any] | None:
    """AdaLoRA's averages of importance and the ranks it has left, None for other adapters."""
    allocator = getattr(model.base_model, "rankallocator", None)
    if allocator is None:
        return None
    names = ("ipt", "exp_avg_ipt", "exp_avg_unc")
    pattern = model.peft_config["default"].rank_pattern
    return {"pattern": pattern, **{name: getattr(allocator, name) for name in names}}


def _restore_ranks(model: PeftModel, ranks: dict[str, Any] | None) -> None:
    if ranks is None:
        return
    model.peft_config["default"].rank_pattern = ranks.pop("pattern")
    device = next(model.parameters()).device
    for name, values in ranks.items():
        moved = {key: value.to(device) for key, value in values.items()}
        setattr(model.base_model.rankallocator, name, moved)
