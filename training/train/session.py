"""A training run with torch loaded: from rows to the adapter directory."""

import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fractions import Fraction
from functools import partial
from itertools import chain, islice
from pathlib import Path

import torch
from torch.distributed import all_gather_object
from transformers import PreTrainedTokenizerBase

from training.cgroups import available_memory
from training.data.batches import Dataset
from training.data.collate import EncodedSample, features
from training.data.messages import Row
from training.data.mixture import Part
from training.data.settings import FileRows, Source
from training.errors import TrainingError, refuse
from training.files import write_aside
from training.merge.learnt_on.layers import build_class
from training.model_directory.directory import ModelDirectory, read_model_directory
from training.model_directory.provenance import add_files
from training.progress import Meter
from training.rendering.conversation import Rendering
from training.rendering.tokenizer import load_tokenizer
from training.train.checkpoints import (
    RunProgress,
    load_weights,
    newest,
    remove_unfinished,
    set_broken_aside,
)
from training.train.config import TrainConfig
from training.train.distributed import Processes, gather, join
from training.train.logbook import plot_losses
from training.train.loop import evaluation_loss, fit
from training.train.methods.adapters import trainable, write_adapter
from training.train.methods.full import write_model
from training.train.methods.memory import estimate, report
from training.train.precision import decide
from training.train.rank import from_torchrun, is_first
from training.train.record import INPUTS, Inputs, run_directory, write_record
from training.train.setup import Run, build_run


def run_to_end(
    config: TrainConfig,
    rows: Mapping[str, list[FileRows]],
    settings: dict[str, object],
    inputs: Inputs,
    *,
    resume: bool,
) -> None:
    """Train on `rows`, by split, from the newest checkpoint if `resume`; write the output.

    `settings` and `inputs` are what the record keeps.
    Raises TrainingError as job.train does.
    """
    record = run_directory(config) / "training.yaml"
    settings["precision"], line = decide(config)
    _print_once(line)
    config = config.model_copy(update={"precision": settings["precision"]})
    tokenizer, datasets = _encode(config, rows)
    _print_once(_describe_need(config, datasets["train"]))
    pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    with join() as processes, _remedy_for_memory():
        if processes.first:
            _announce_start(record.parent, resume)
        _agree(processes, config, lambda: f"{_furthest(record.parent)}, {config.precision}")
        run, progress = build_run(config, datasets, pad, processes, record.parent)
        if processes.first:
            write_record(record, settings, inputs)
        fit(run, progress)
        run.logbook.close()
        _finish(run, progress, tokenizer, record)


def _describe_need(config: TrainConfig, data: Dataset) -> str:
    """By formula, beside what the machine has free: of a GPU's for each process, else of all."""
    need = estimate(config, build_class(config.model), data.samples, from_torchrun("WORLD_SIZE", 1))
    if torch.cuda.is_available():
        return report(need, torch.cuda.mem_get_info(from_torchrun("LOCAL_RANK"))[0], 1)
    return report(need, available_memory(), from_torchrun("LOCAL_WORLD_SIZE", 1))


def confirm_finished(config: TrainConfig) -> None:
    """Every process finds the adapter there. Raises TrainingError when one does not."""
    with join() as processes:
        _agree(processes, config, lambda: "the adapter")
    _print_once(f"{config.output} is trained already, with these settings")


def _furthest(folder: Path) -> str:
    checkpoint = newest(folder)
    return checkpoint.name if checkpoint else "no checkpoint"


def _agree(processes: Processes, config: TrainConfig, find: Callable[[], str]) -> None:
    """Wait for every process; refuse to go on when another one finds something else."""
    if processes.world == 1:
        return
    processes.wait()  # until the first one has set damaged checkpoints aside
    everywhere = [""] * processes.world
    all_gather_object(everywhere, find())
    if len({*everywhere}) > 1:
        raise TrainingError(
            f"the processes do not find the same at {config.output} and {run_directory(config)} "
            f"({'; '.join(everywhere)}): put the output into a folder that all nodes share, and set"
            " precision= by hand where the machines differ"
        )


def _announce_start(folder: Path, resume: bool) -> None:
    remove_unfinished(folder)
    for line in set_broken_aside(folder):
        print(f"warning: {line}")
    checkpoint = newest(folder)
    if resume:
        print(f"resuming from {checkpoint}" if checkpoint else "no checkpoint yet: starting anew")


def _finish(
    run: Run, progress: RunProgress, tokenizer: PreTrainedTokenizerBase, record: Path
) -> None:
    """Write the output: the last weights, or with keep_best those of the lowest loss."""
    _conclude(run, progress)
    weights = gather(trainable(run.model), run.processes)
    if run.processes.first:
        with write_aside(run.config.output, durable=True) as aside:
            trained = aside / ".trained" if run.config.full else aside
            trained.mkdir(exist_ok=True)
            write_adapter(run.model, weights, trained)
            tokenizer.save_pretrained(str(trained))
            if run.config.full:
                write_model(run.config, weights, trained, aside)
            shutil.copy(record, aside)
            shutil.copy(record.with_name(INPUTS), aside)
            plot_losses(run.logbook.entries, aside / "loss.png")
            add_files(aside)
        what = "model" if run.config.full else "adapter"
        print(f"{what} written to {run.config.output}")
    run.processes.wait()


def _conclude(run: Run, progress: RunProgress) -> None:
    """Load the best weights if those are to be written, or evaluate the last ones."""
    if run.config.keep_best and progress.best_update is not None:
        load_weights(run.folder / f"checkpoint-{progress.best_update}", run.model)
        _print_once(
            f"lowest evaluation loss: {progress.best_loss:.4f} at update {progress.best_update}, "
            "whose adapter is written"
        )
    elif run.evaluation and not run.config.eval_every:
        loss = evaluation_loss(run)
        _print_once(f"evaluation loss: {loss:.4f}")


def _print_once(text: str) -> None:
    if is_first():
        print(text)


def _encode(
    config: TrainConfig, rows: Mapping[str, list[FileRows]]
) -> tuple[PreTrainedTokenizerBase, dict[str, Dataset]]:
    """The tokenizer, and every split as model inputs."""
    base = read_model_directory(config.model)
    tokenizer = load_tokenizer(config.model, config.template)
    rendering = Rendering.of(tokenizer, config.thinking, train_thoughts=config.train_thoughts)
    datasets = {}
    encode = partial(rendering.encode, max_length=config.data.max_length)
    for split, files in rows.items():
        count = sum(len(file.rows) for file in files)
        meter = Meter(f"tokenise {split}", count, "row", leave=False, shown=is_first())
        all_rows = meter.over(row for file in files for row in file.rows)
        encoded = iter([*_encoded(encode, all_rows, base)])
        samples = [[*chain(*islice(encoded, len(file.rows)))] for file in files]
        _report_sizes(split, [*chain(*samples)], config.data.max_length)
        datasets[split] = _dataset(files, samples)
    return tokenizer, datasets


def _dataset(files: Sequence[FileRows], samples: Sequence[Sequence[EncodedSample]]) -> Dataset:
    parts = [_part(file.source, len(own)) for file, own in zip(files, samples, strict=True)]
    return Dataset([features(each) for each in chain(*samples)], tuple(parts))


def _part(source: Source, samples: int) -> Part:
    weight = source.weight
    share = Fraction(str(weight)) if weight is not None else Fraction(samples * source.repeat)
    return Part(samples, share, str(source.path), source.repeat)


def _encoded(
    encode: Callable[[Row], list[EncodedSample]], rows: Iterable[Row], base: ModelDirectory
) -> Iterator[list[EncodedSample]]:
    """Each row's samples; every row that has none is named in one error at the end."""
    problems: list[str] = []
    for row in rows:
        try:
            samples = encode(row)
        except TrainingError as error:
            problems.append(str(error))
            continue
        problems += _beyond(row, samples, base)
        yield samples
    refuse(problems)


def _beyond(row: Row, samples: list[EncodedSample], base: ModelDirectory) -> list[str]:
    """What is wrong with ids that have no row of embeddings."""
    embeddings = base.rows or sys.maxsize
    largest = max(max(sample.ids) for sample in samples)
    if largest < embeddings:
        return []
    return [
        f"{row.where}: it becomes a token of id {largest}, and {base.path} has {embeddings} rows of"
        " embeddings: resize them, or take the token out of text, chat template or"
        " tokenizer_config.json"
    ]


def _report_sizes(split: str, samples: Sequence[EncodedSample], max_length: int) -> None:
    tokens = sum(len(sample.ids) for sample in samples)
    _print_once(f"{split}: {len(samples):,} samples, {tokens:,} tokens")
    cut = [sample.cut_tokens for sample in samples if sample.cut_tokens]
    if cut:
        _print_once(
            f"warning: {len(cut):,} of the {len(samples):,} {split} prompts lost {sum(cut):,} "
            f"tokens (oldest rounds first, then their middle) to fit data.max_length={max_length}"
        )


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
