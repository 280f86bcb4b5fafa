"""All that a run works with: base and adapter, optimiser, data order, loss."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.amp import GradScaler
from torch.nn import Module
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import AutoModelForCausalLM, PreTrainedModel, get_scheduler

import training.chatglm  # so that ChatGLM-6B is known
from training.data.batches import Dataset, SampleOrder, updates_of
from training.data.collate import Batch, Features, collator
from training.data.mixture import Mixture
from training.errors import TrainingError
from training.progress import hide_transformers_bars
from training.train import checkpoints
from training.train.checkpoints import RunProgress
from training.train.config import TrainConfig
from training.train.distributed import Processes
from training.train.logbook import Logbook
from training.train.loss import AnswerLoss, keeps_logits
from training.train.methods.adapters import TunedModel, add_adapter, count_parameters, trainable
from training.train.methods.full import check_full
from training.train.methods.optimizer import build_optimizer
from training.train.methods.quantised_base import describe_memory, loading_arguments, prepare
from training.train.precision import dtype_of


@dataclass(frozen=True)
class Run:
    """`model` is the peft model; `loss` computes through its wrapping for many processes."""

    config: TrainConfig
    folder: Path
    model: TunedModel
    loss: AnswerLoss
    optimizer: Optimizer
    scheduler: LambdaLR
    scaler: GradScaler
    order: SampleOrder
    train: Sequence[Features]
    evaluation: Sequence[Features]
    collate: Callable[[Sequence[Features]], Batch]
    processes: Processes
    logbook: Logbook


def build_run(
    config: TrainConfig,
    datasets: Mapping[str, Dataset],
    pad_token_id: int,
    processes: Processes,
    folder: Path,
) -> tuple[Run, RunProgress]:
    """The run that `config` describes, continued from the newest checkpoint in `folder` if any.

    Raises TrainingError when adapter, data and processes do not fit together.
    """
    order = _order(config, datasets["train"], processes)
    torch.manual_seed(config.seed)  # the adapter's first weights
    model, wrapped = _model(config, order.updates, processes)
    optimizer = build_optimizer([*trainable(model).values()], config)
    scaler = GradScaler(processes.device.type, enabled=config.precision == "fp16")
    checkpoint = checkpoints.newest(folder)
    progress = (
        checkpoints.load(checkpoint, model, optimizer, scaler) if checkpoint else RunProgress()
    )
    lost = checkpoints.forget_lost_best(folder, progress) if config.keep_best else None
    if lost and processes.first:
        print(f"warning: {lost}")
    run = Run(
        config=config,
        folder=folder,
        model=model,
        loss=AnswerLoss(wrapped, keeps_logits(model.get_base_model()), autocast(config, processes)),
        optimizer=optimizer,
        scheduler=_schedule(config, optimizer, order.updates, progress.update),
        scaler=scaler,
        order=order,
        train=datasets["train"].samples,
        evaluation=datasets.get("eval", Dataset()).samples,
        collate=collator(config.data.batching, pad_token_id),
        processes=processes,
        logbook=Logbook(folder, progress.update, order.updates, active=processes.first),
    )
    return run, progress


def _order(config: TrainConfig, data: Dataset, processes: Processes) -> SampleOrder:
    optim = config.optim
    if optim.batch_size % processes.world:
        raise TrainingError(
            f"optim.batch_size={optim.batch_size} samples an update cannot be shared equally by "
            f"{processes.world} processes: choose a multiple"
        )
    mixture = Mixture(data.parts, config.seed)
    if processes.first and len(data.parts) > 1:
        print("\n".join(mixture.describe()))
    return SampleOrder(
        lengths=tuple(len(row["input_ids"]) for row in data.samples),
        batch_size=optim.batch_size,
        updates=optim.steps or updates_of(mixture.epoch, optim.batch_size, optim.epochs or 1),
        mixture=mixture,
        grouped=config.data.batching == "grouped",
    )


def _model(config: TrainConfig, updates: int, processes: Processes) -> tuple[TunedModel, Module]:
    """The peft model, and what to call for its forward pass."""
    if config.parallel == "ddp":
        return _load_model(config, updates, processes)
    if processes.world == 1:
        raise TrainingError("parallel=fsdp needs several processes: start them with torchrun")
    # the base may not fit several times, so it is read by one after the other
    return processes.in_turn(partial(_load_model, config, updates, processes))


def _load_model(
    config: TrainConfig, updates: int, processes: Processes
) -> tuple[TunedModel, Module]:
    hide_transformers_bars(shown=processes.first)
    if config.precision == "fp16" and processes.device.type == "cpu":
        raise TrainingError("precision=fp16 needs a GPU; use fp32 or bf16 on this machine")
    check_full(config)
    base = load_base(config)
    prepare(base, config, processes.device)
    lines = describe_memory(base, config)
    model = add_adapter(base, config, updates)
    if processes.first:
        print(*lines, count_parameters(model), sep="\n")
    wrapped = processes.wrap(model, config.parallel)
    model.train()
    return model, wrapped


def load_base(config: TrainConfig) -> PreTrainedModel:
    """Load the base in the precision that `config` names.

    Raises TrainingError when the files lack weights of the model's class.
    """
    base, report = _from_pretrained(config)
    if missing := sorted(report["missing_keys"]):
        raise TrainingError(
            f"{config.model} lacks weights of {type(base).__name__}, which would begin at random:"
            f" {', '.join(missing[:3])}{', …' * (len(missing) > 3)}: get the whole model again"
        )
    if base.config.model_type == training.chatglm.MODEL_TYPE and config.data.batching == "packed":
        raise TrainingError("ChatGLM-6B's contexts cannot be packed: use data.batching=grouped")
    base.config.use_cache = False  # a cache is dead weight in training
    if config.gradient_checkpointing:
        base.gradient_checkpointing_enable({"use_reentrant": False})
    return base


def _from_pretrained(config: TrainConfig) -> tuple[PreTrainedModel, dict[str, Any]]:
    dtype = torch.float32 if config.full else dtype_of(config)  # what trains is fp32 from the files
    quantising = loading_arguments(config, dtype)
    try:
        base, report = AutoModelForCausalLM.from_pretrained(
            str(config.model),
            dtype=dtype,
            trust_remote_code=False,
            output_loading_info=True,
            **quantising,
        )
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # each class checks its own settings in its own way
        raise TrainingError(
            f"{config.model}: transformers cannot load it: its files do not fit together"
            f" ({type(error).__name__}: {error})"
        ) from error
    return base, report


def autocast(
    config: TrainConfig, processes: Processes
) -> Callable[[], AbstractContextManager[object]]:
    """What the forward pass runs under."""
    if config.precision == "fp32":
        return nullcontext
    return partial(torch.autocast, processes.device.type, dtype_of(config))


def _schedule(config: TrainConfig, optimizer: Optimizer, updates: int, done: int) -> LambdaLR:
    """The learning rate over `updates`, set to the value that follows `done` of them."""
    optim = config.optim
    shape = get_scheduler(
        optim.schedule,
        AdamW([torch.zeros(1)], lr=optim.lr),
        num_warmup_steps=round(optim.warmup_ratio * updates),
        num_training_steps=updates,
    ).lr_lambdas[0]
    return LambdaLR(optimizer, lambda update: shape(done + update))
