"""What a run is set to do, checked before torch is loaded: paths, settings, rows."""

from dataclasses import replace
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from training.data import Row, load_rows
from training.data.settings import FileRows, Source
from training.errors import TrainingError
from training.merge.prefix_files import check_takes_prefix, refuse_prefixed
from training.model_directory.directory import read_model_directory
from training.model_directory.hub import local_directory
from training.model_directory.token_ids import check_vocabulary, read_tokens
from training.train.config import TrainConfig
from training.train.record import (
    Inputs,
    changed_inputs,
    changes,
    find_checkpoints,
    moved_inputs,
    recorded_precision,
    run_directory,
    sum_data,
    sum_inputs,
)

if TYPE_CHECKING:
    from training.inspection.check import Report
    from training.inspection.look import Look


def train(config: TrainConfig, *, resume: bool = False, if_started: bool = False) -> Path:
    """Run `config` to its end and return the adapter directory.

    `if_started` resumes only a run that was begun, and leaves one that has ended as it is. Under
    torchrun every process calls this; the first one writes.
    Raises TrainingError for bad data or settings before the base model is loaded; only whether the
    adapter's targets name something in it shows afterwards.
    """
    record = run_directory(config) / "training.yaml"
    config = config.model_copy(update={"precision": recorded_precision(config, record)})
    settings = config.model_dump(mode="json")
    rows: dict[str, list[FileRows]] | None = None
    inputs: Inputs = {}
    if not (if_started and _is_finished(config, settings)):
        resume = resume or (if_started and record.exists())
        config = config.model_copy(update={"model": local_directory(str(config.model))})
        _refuse_conflicts(config, record, resume=resume)
        _check_base(config)
        rows = _rows(config)
        inputs = sum_inputs(config)
        if resume:
            _check_same_run(record, settings, inputs)
    from training.train import session  # late: torch takes seconds, what is wrong so far none

    if rows is None:
        session.confirm_finished(config)
    else:
        session.run_to_end(config, rows, settings, inputs, resume=resume)
    return config.output


def show(config: TrainConfig, count: int) -> None:
    """Print `count` samples as they would be trained on. Raises TrainingError as training does."""
    rows = [row for file in _rows(config)["train"] for row in file.rows]
    for text in _look(config).preview(rows, count):
        print(text)


def inspect(config: TrainConfig) -> "Report":
    """Look at all data of `config`, before any model is loaded.

    Raises TrainingError where the base's tokenizer or the settings are wrong.
    """
    layout = config.data.layout
    trained = [(source.path, layout(source)) for source in config.data.train]
    held_out = [
        (path, replace(layout(Source(path=path)), answered=path == config.data.eval))
        for path in (config.data.eval, config.data.test)
        if path
    ]
    return _look(config).check(trained, held_out)


def _look(config: TrainConfig) -> "Look":
    from training.inspection.look import Look  # late, as above

    fields = config.model_dump(include={"template", "thinking", "train_thoughts"})
    model = local_directory(str(config.model))
    return Look(**fields, model=model, max_length=config.data.max_length)


def _refuse_conflicts(config: TrainConfig, record: Path, *, resume: bool) -> None:
    """Two runs are never mixed, and a finished adapter is never written over."""
    if config.output.exists():
        raise TrainingError(f"{config.output} exists already: choose another output or remove it")
    if not (config.model / "config.json").is_file():
        raise TrainingError(f"{config.model}: no config.json in it; model= names a model directory")
    _refuse_other_start(record, resume=resume)


def _refuse_other_start(record: Path, *, resume: bool) -> None:
    if resume and not record.is_file():
        raise TrainingError(f"{record.parent}: nothing to resume; run once without --resume")
    if not resume and (record.exists() or find_checkpoints(record.parent)):
        raise TrainingError(
            f"{record.parent} holds an earlier run: add --resume to go on, or remove it"
        )


def _check_base(config: TrainConfig) -> None:
    """Look at the base on disk, at its headers alone, before anything is spent on it.

    Raises TrainingError when it is quantised, contradicts itself, lacks rows for its tokenizer or
    could not be served with the prefix that is to be trained.
    """
    base = read_model_directory(config.model)
    refuse_prefixed(base)
    if config.prefix:
        check_takes_prefix(base)
    if base.ends is None and base.architecture is None:
        kind = base.config.get("model_type")
        raise TrainingError(f"{base.path}: transformers knows no language model of type {kind!r}")
    check_vocabulary(base.path, read_tokens(base.path), base.rows)


def _check_same_run(record: Path, settings: dict[str, object], inputs: Inputs) -> None:
    """The settings and the contents of files are those of the beginning; the files may have moved.

    A name on a hub may mean other files by now: name@revision, with the revision of the beginning,
    means the same.
    """
    if other := changed_inputs(record, inputs):
        raise TrainingError(
            f"cannot resume {record.parent}: the contents of {', '.join(other)} changed since it"
            " started; put the old files back or choose another output"
        )
    changed = sorted({*changes(record, settings)} - moved_inputs(record, inputs))
    if changed:
        raise TrainingError(
            f"cannot resume {record.parent}: {', '.join(changed)} changed since it started; "
            "put the old values back or choose another output"
        )


def _is_finished(config: TrainConfig, settings: dict[str, object]) -> bool:
    """Whether the output is there already, of a run with these settings."""
    record = config.output / "training.yaml"
    sums = sum_data(config)
    if not record.is_file() or {*changes(record, settings)} - moved_inputs(record, sums):
        return False
    if changed := changed_inputs(record, sums):
        raise TrainingError(
            f"{config.output} was trained on other contents of {', '.join(changed)}: choose another"
            " output, or remove it"
        )
    return True


def _rows(config: TrainConfig) -> dict[str, list[FileRows]]:
    held_out = [Source(path=config.data.eval)] if config.data.eval else []
    splits = {"train": config.data.train, "eval": held_out}
    return {
        split: [FileRows(source, _chosen(config, source)) for source in sources]
        for split, sources in splits.items()
        if sources
    }


def _chosen(config: TrainConfig, source: Source) -> list[Row]:
    """The rows of a file, up to its limits."""
    rows = load_rows(source.path, config.data.layout(source))[: config.data.limit]
    if source.cap is None or source.cap >= len(rows):
        return rows
    kept = Random(f"{config.seed} cap").sample(range(len(rows)), source.cap)
    return [rows[number] for number in sorted(kept)]
