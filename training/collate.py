"""Samples to padded batches."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from training.rendering import Sample

IGNORED = -100  # torch's cross_entropy leaves this label out


def features(sample: Sample) -> dict[str, list[int]]:
    """`input_ids` and `labels` of equal length; only the answer carries a loss."""
    return {
        "input_ids": sample.prompt_ids + sample.answer_ids,
        "labels": [IGNORED] * len(sample.prompt_ids) + sample.answer_ids,
    }


@dataclass(frozen=True)
class PadRight:
    """Pad a batch to its own longest row: [batch, longest] ids, labels and attention mask."""

    pad_token_id: int

    def __call__(self, batch: Sequence[dict[str, list[int]]]) -> dict[str, Any]:
        """Stack `features` of several samples."""
        import torch

        longest = max(len(row["input_ids"]) for row in batch)
        fillers = {"input_ids": self.pad_token_id, "labels": IGNORED, "attention_mask": 0}
        rows = [{**row, "attention_mask": [1] * len(row["input_ids"])} for row in batch]
        return {
            name: torch.tensor([row[name] + [fill] * (longest - len(row[name])) for row in rows])
            for name, fill in fillers.items()
        }
