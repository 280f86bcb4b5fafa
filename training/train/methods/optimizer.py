"""The optimiser of a method."""

from collections.abc import Sequence
from itertools import groupby

import bitsandbytes
from torch.nn import Parameter
from torch.optim import AdamW, Optimizer

from training.train.config import TrainConfig


def build_optimizer(parameters: Sequence[Parameter], config: TrainConfig) -> Optimizer:
    """AdamW in one kernel, which saves a tenth of a small model's update.

    Of a full fine-tuning norms and biases do not decay.
    """
    optim = config.optim
    if config.full is None:
        return AdamW(parameters, optim.lr, weight_decay=optim.weight_decay, fused=True)
    groups = _by_decay(parameters, optim.weight_decay)
    if config.full.optimizer == "adamw8bit":
        optimizer: Optimizer = bitsandbytes.optim.AdamW8bit(groups, optim.lr)
        return optimizer
    return AdamW(groups, optim.lr, fused=True)


def _by_decay(parameters: Sequence[Parameter], decay: float) -> list[dict[str, object]]:
    groups = groupby(sorted(parameters, key=_is_matrix), key=_is_matrix)
    return [{"params": [*group], "weight_decay": decay * matrices} for matrices, group in groups]


def _is_matrix(parameter: Parameter) -> bool:
    return parameter.ndim > 1
