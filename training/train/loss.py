"""The cross-entropy of the answers, computed where there are answers only."""

import inspect
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch.nn import Module

from training.data.batches import micro_batches
from training.data.collate import IGNORED, Batch, Features
from training.progress import Meter
from training.train.distributed import Processes


@dataclass(frozen=True)
class AnswerLoss:
    """Computes the loss of `model`, which may be wrapped for many processes, on batches.

    `keeps_logits` says that its forward takes `logits_to_keep`; the output layer, often the
    largest matrix, then sees the answers' positions and not the prompts'.
    """

    model: Module
    keeps_logits: bool
    autocast: Callable[[], AbstractContextManager[object]]

    def total(self, batch: Batch) -> torch.Tensor:
        """Sum of the cross-entropies, in nats, of every labelled token of `batch`; fp32."""
        inputs = dict(batch)
        targets = inputs.pop("labels")[:, 1:]
        columns = (targets != IGNORED).any(dim=0).nonzero().squeeze(1)
        keep = {"logits_to_keep": columns} if self.keeps_logits else {}
        with self.autocast():
            logits = self.model(**inputs, **keep, use_cache=False).logits
        if not self.keeps_logits:
            logits = logits[:, columns]
        return torch.nn.functional.cross_entropy(
            logits.float().flatten(0, 1),
            targets[:, columns].flatten(),
            ignore_index=IGNORED,
            reduction="sum",
        )


def keeps_logits(base: Module) -> bool:
    """Whether the model's forward takes `logits_to_keep`."""
    return "logits_to_keep" in inspect.signature(base.forward).parameters


def answer_tokens(rows: Sequence[Features]) -> int:
    """How many tokens of `rows` carry a loss."""
    return sum(label != IGNORED for row in rows for label in row["labels"])


def evaluate(
    loss: AnswerLoss,
    rows: Sequence[Features],
    collate: Callable[[Sequence[Features]], Batch],
    size: int,
    processes: Processes,
) -> float:
    """Mean cross-entropy per answer token over all `rows`, shared out among the processes."""
    by_length = sorted(range(len(rows)), key=lambda index: len(rows[index]["labels"]))
    batches = micro_batches(by_length, 0, 1, size)
    rounds = range(0, len(batches), processes.world)
    total = torch.zeros((), device=processes.device)
    loss.model.eval()
    bar = Meter("evaluate", len(rounds), "round", leave=False, shown=processes.first)
    for first in bar.over(rounds):
        mine = first + processes.rank
        # with sharded weights every process takes part in every round, even with nothing to add
        batch = collate([rows[index] for index in batches[min(mine, len(batches) - 1)]])
        with torch.no_grad():
            value = loss.total(processes.move(batch))
        total += value if mine < len(batches) else 0.0
    loss.model.train()
    return processes.sum(total) / answer_tokens(rows)
