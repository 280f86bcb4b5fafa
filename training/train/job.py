"""One training run, from its settings to the adapter directory."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.distributed import all_gather_object

from training.dataset.collate import Features, features
from training.dataset.rendering import encode_sample, load_tokenizer
from training.dataset.rows import Row, read_rows
from training.errors import TrainingError
from training.files import write_aside
from training.model_directory.hub import local_directory
from training.progress import Meter
from training.train.adapters import trainable, write_adapter
from training.train.checkpoints import Progress, load_weights, newest, remove_unfinished
from training.train.config import TrainConfig
from training.train.distributed import Processes, join, whole
from training.train.logbook import plot_losses
from training.train.loop import evaluation_loss, fit
from training.train.precision import decide
from training.train.rank import is_first
from training.train.record import changes, recorded_precision, write_record
from training.train.setup import Run, build_run


def train(config: TrainConfig, *, resume: bool = False, if_started: bool = False) -> Path:
    """Run `config` to its end and return the adapter directory.

    `if_started` resumes only a run that was begun, and leaves one that has ended as it is. Under
    torchrun every process calls this; the first one writes. Raises TrainingError for bad data or
    settings before the base model is loaded; only whether the adapter's targets name something in
    it shows afterwards.
    """
    record = run_directory(config) / "training.yaml"
    config = config.model_copy(update={"precision": recorded_precision(config, record)})
    settings = _settings(config)
    if if_started and _is_finished(config, settings):
        return _leave_finished(config)
    resume = resume or (if_started and record.exists())
    config = config.model_copy(update={"model": local_directory(str(config.model))})
    _refuse_conflicts(config, record, settings if resume else None)
    settings["precision"], line = decide(config)
    _say(line)
    config = config.model_copy(update={"precision": settings["precision"]})
    tokenizer, datasets = _encode(config, _rows(config))
    pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    with join() as processes, _remedy_for_memory():
        if processes.first:
            _tell_start(record.parent, resume)
        _agree(processes, config, f"{_furthest(record.parent)}, {config.precision}")
        run, progress = build_run(config, datasets, pad, processes, record.parent)
        if processes.first:
            write_record(record, settings)
        fit(run, progress)
        run.logbook.close()
        _finish(run, progress, tokenizer, record)
    return config.output


def _leave_finished(config: TrainConfig) -> Path:
    with join() as processes:
        _agree(processes, config, "the adapter")
    _say(f"{config.output} is trained already, with these settings")
    return config.output


def run_directory(config: TrainConfig) -> Path:
    """Where checkpoints go; training.yaml in it records the settings that the run began with."""
    return config.output.with_name(config.output.name + ".run")


def _refuse_conflicts(config: TrainConfig, record: Path, resumed: dict[str, Any] | None) -> None:
    """Two runs are never mixed, and a finished adapter is never written over.

    `resumed` holds the settings of a run that is to go on.
    """
    if config.output.exists():
        raise TrainingError(f"{config.output} exists already: choose another output or remove it")
    if not (config.model / "config.json").is_file():
        raise TrainingError(f"{config.model}: no config.json in it; model= names a model directory")
    if resumed is not None:
        _check_same_run(record, resumed)
    elif record.exists() or any(record.parent.glob("checkpoint-*")):
        raise TrainingError(
            f"{record.parent} holds an earlier run: add --resume to go on, or remove it"
        )


def _settings(config: TrainConfig) -> dict[str, Any]:
    return config.model_dump(mode="json")


def _check_same_run(record: Path, settings: dict[str, Any]) -> None:
    if not record.is_file():
        raise TrainingError(f"{record.parent}: nothing to resume; run once without --resume")
    changed = changes(record, settings)
    if changed:
        raise TrainingError(
            f"cannot resume {record.parent}: {', '.join(changed)} changed since it started; "
            "put the old values back or choose another output"
        )


def _is_finished(config: TrainConfig, settings: dict[str, Any]) -> bool:
    """Whether the output is there already, of a run with these settings."""
    record = config.output / "training.yaml"
    return record.is_file() and not changes(record, settings)


def _furthest(folder: Path) -> str:
    checkpoint = newest(folder)
    return checkpoint.name if checkpoint else "no checkpoint"


def _agree(processes: Processes, config: TrainConfig, found: str) -> None:
    """Wait for every process; refuse to go on when another one found something else."""
    if processes.world == 1:
        return
    everywhere = [""] * processes.world
    all_gather_object(everywhere, found)
    if len({*everywhere}) > 1:
        raise TrainingError(
            f"the processes do not find the same at {config.output} and {run_directory(config)} "
            f"({'; '.join(everywhere)}): put the output into a folder that all nodes share, and set"
            " precision= by hand where the machines differ"
        )


def _tell_start(folder: Path, resume: bool) -> None:
    remove_unfinished(folder)
    checkpoint = newest(folder)
    if resume:
        print(f"resuming from {checkpoint}" if checkpoint else "no checkpoint yet: starting anew")


def _finish(run: Run, progress: Progress, tokenizer: Any, record: Path) -> None:
    """Write the output: the last weights, or with keep_best those of the lowest loss."""
    if run.config.keep_best and progress.best_update is not None:
        load_weights(run.folder / f"checkpoint-{progress.best_update}", run.model)
        _say(
            f"lowest evaluation loss: {progress.best_loss:.4f} at update {progress.best_update}, "
            "whose adapter is written"
        )
    elif run.evaluation and not run.config.eval_every:
        loss = evaluation_loss(run)
        _say(f"evaluation loss: {loss:.4f}")
    weights = {name: whole(p) for name, p in trainable(run.model).items()}
    if run.processes.first:
        with write_aside(run.config.output) as aside:
            write_adapter(run.model, weights, aside)
            tokenizer.save_pretrained(str(aside))
            shutil.copy(record, aside)
            plot_losses(run.logbook.entries, aside / "loss.png")
        print(f"adapter written to {run.config.output}")
    run.processes.wait()


def _say(text: str) -> None:
    if is_first():
        print(text)


def _rows(config: TrainConfig) -> dict[str, list[Row]]:
    data = config.data
    splits = {"train": data.train, "eval": data.eval}
    return {
        split: read_rows(path, data.prompt, data.response, data.history)
        for split, path in splits.items()
        if path
    }


def _encode(
    config: TrainConfig, rows: dict[str, list[Row]]
) -> tuple[Any, dict[str, list[Features]]]:
    """The tokenizer, and every split as a list of model inputs."""
    tokenizer = load_tokenizer(config.model, config.template)
    datasets = {}
    for split, split_rows in rows.items():
        title, shown = f"tokenise {split}", is_first()
        bar = Meter(title, len(split_rows), "row", leave=False, shown=shown).over(split_rows)
        samples = [encode_sample(tokenizer, row, config.data.max_length) for row in bar]
        datasets[split] = [features(sample) for sample in samples]
        tokens = sum(len(inputs["input_ids"]) for inputs in datasets[split])
        _say(f"{split}: {len(samples):,} samples, {tokens:,} tokens")
        cut = [sample.cut_tokens for sample in samples if sample.cut_tokens]
        if cut:
            _say(
                f"warning: {len(cut):,} of the {len(samples):,} {split} prompts lost {sum(cut):,} "
                f"tokens (oldest rounds first, then their middle) to fit "
                f"data.max_length={config.data.max_length}"
            )
    return tokenizer, datasets


@contextmanager
def _remedy_for_memory() -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise TrainingError(
            "the GPU's memory is full: lower optim.micro_batch (the result stays the same) or "
            "data.max_length, set gradient_checkpointing=true, or share the base out with "
            f"torchrun and parallel=fsdp; --resume goes on ({str(error).splitlines()[0]})"
        ) from error
