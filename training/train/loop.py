"""The training loop: forward, backward, update; log, evaluate, save.

It is our own because a resumed run must equal an undisturbed one: the samples and the dropout of
an update depend on the settings and its number alone, so a checkpoint holds no iterator and no
random state, and any number of processes can go on from it.
"""

import math
import time
from contextlib import AbstractContextManager, nullcontext
from random import Random

import torch

from training.data.batches import micro_batches
from training.errors import TrainingError
from training.threads import Threads
from training.train import checkpoints
from training.train.checkpoints import RunProgress
from training.train.loss import answer_tokens, evaluate
from training.train.methods.adapters import orthogonality
from training.train.setup import Run


def fit(run: Run, progress: RunProgress) -> None:
    """Train from `progress` to the end, or until `patience` is out; `progress` is kept current.

    Raises TrainingError when the loss is no longer a finite number.
    """
    config = run.config
    seconds, losses = 0.0, list[torch.Tensor]()
    with Threads() as threads:
        while not _over(run, progress):
            started = time.monotonic()
            losses.append(_update(run, progress.update))
            seconds += time.monotonic() - started
            progress.update += 1
            threads.look()
            run.logbook.advance()
            if _due(run, config.log_every, progress):
                _log(run, progress.update, losses, seconds)
                seconds, losses = 0.0, []
            _evaluate_and_save(run, progress)


def _over(run: Run, progress: RunProgress) -> bool:
    patience = run.config.patience
    return progress.update >= run.order.updates or bool(patience and progress.stale >= patience)


def _due(run: Run, every: int | None, progress: RunProgress) -> bool:
    return every is not None and (progress.update % every == 0 or _over(run, progress))


def _update(run: Run, update: int) -> torch.Tensor:
    """One step of the optimiser; returns this process's part of the loss, times the processes."""
    config, processes = run.config, run.processes
    torch.manual_seed(Random(f"{config.seed} {update} {processes.rank}").getrandbits(63))
    batch = run.order.batch(update)
    answers = answer_tokens([run.train[index] for index in batch])
    shares = micro_batches(batch, processes.rank, processes.world, config.optim.micro_batch)
    total = torch.zeros((), device=processes.device)
    for number, share in enumerate(shares, start=1):
        rows = processes.move(run.collate([run.train[index] for index in share]))
        with _exchange(run.loss.model, last=number == len(shares)):
            # wrapping averages gradients over the processes, where this loss needs their sum
            loss = run.loss.total(rows) * (processes.world / answers)
            total += loss.detach()
            if config.adalora:
                weight = config.adalora.orth_reg_weight / len(shares)
                loss = loss + weight * orthogonality(run.model)
            torch.autograd.backward(run.scaler.scale(loss))
    _step(run, update)
    return total


def _exchange(model: torch.nn.Module, *, last: bool) -> AbstractContextManager[object]:
    """Gradients are exchanged between the processes with the last micro-batch only."""
    no_sync = getattr(model, "no_sync", None)  # DistributedDataParallel's
    return no_sync() if no_sync and not last else nullcontext()


def _step(run: Run, update: int) -> None:
    run.scaler.unscale_(run.optimizer)
    parameters = [p for group in run.optimizer.param_groups for p in group["params"]]
    torch.nn.utils.clip_grad_norm_(parameters, run.config.optim.max_grad_norm)
    run.scaler.step(run.optimizer)
    run.scaler.update()
    run.scheduler.step()
    if run.config.adalora:
        run.model.base_model.update_and_allocate(update + 1)  # reads the gradients
    run.optimizer.zero_grad()


def _log(run: Run, update: int, losses: list[torch.Tensor], seconds: float) -> None:
    mean = run.processes.sum(torch.stack(losses).mean()) / run.processes.world
    if not math.isfinite(mean):
        raise TrainingError(
            f"the loss is {mean} at update {update}: lower optim.lr or use another precision, or "
            f"look whether {run.config.model} is whole; {run.folder} has the checkpoints before"
        )
    values = {
        "loss": mean,
        "lr": float(run.scheduler.get_last_lr()[0]),
        "samples_per_s": len(losses) * run.config.optim.batch_size / seconds,
    }
    run.logbook.record(update, values)


def _evaluate_and_save(run: Run, progress: RunProgress) -> None:
    better = False
    if _due(run, run.config.eval_every, progress):
        loss = evaluation_loss(run)
        run.logbook.record(progress.update, {"eval_loss": loss})
        better = progress.take(loss)
    if (better and run.config.keep_best) or _due(run, run.config.save_every, progress):
        _save(run, progress)


def evaluation_loss(run: Run) -> float:
    """Mean cross-entropy per answer token of the evaluation samples, in nats."""
    optim = run.config.optim
    size = optim.micro_batch or optim.batch_size // run.processes.world
    return evaluate(run.loss, run.evaluation, run.collate, size, run.processes)


def _save(run: Run, progress: RunProgress) -> None:
    checkpoints.save(run.folder, run.model, run.optimizer, run.scaler, progress, run.processes)
    if run.processes.first:
        best = progress.best_update if run.config.keep_best else None
        checkpoints.prune(run.folder, run.config.save_keep, best)
