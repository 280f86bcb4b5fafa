"""Samples to the tensors of one forward pass."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

IGNORED = -100  # torch's cross_entropy leaves this label out
Features = dict[str, list[int]]
Batch = dict[str, torch.Tensor]


@dataclass(frozen=True)
class EncodedSample:
    """Token ids of one sample: what is given (exactly one BOS), then an answer, and so on."""

    turns: tuple[tuple[list[int], list[int]], ...]
    """What is given and what is learned, alternating."""
    cut_tokens: int = 0
    """How many tokens of the prompt were left out to fit the maximum length."""

    @property
    def ids(self) -> list[int]:
        """All of them, in their order."""
        return [i for turn in self.turns for part in turn for i in part]

    @property
    def prompt_ids(self) -> list[int]:
        """Those before the first answer."""
        return self.turns[0][0]

    @property
    def answer_ids(self) -> list[int]:
        """The last answer up to its end."""
        return self.turns[-1][1]


def features(sample: EncodedSample) -> Features:
    """`input_ids` and `labels` of equal length; only answers carry a loss."""
    return {
        "input_ids": sample.ids,
        "labels": [
            label for given, learned in sample.turns for label in ([IGNORED] * len(given) + learned)
        ],
    }


def collator(batching: str, pad_token_id: int) -> Callable[[Sequence[Features]], Batch]:
    """The function that makes a batch the way `data.batching` names."""
    if batching == "packed":
        return pack
    return lambda rows: pad(rows, pad_token_id)


def pad(rows: Sequence[Features], pad_token_id: int) -> Batch:
    """Rows padded on the right to the longest: [rows, longest] ids, labels, attention mask."""
    longest = max(len(row["input_ids"]) for row in rows)
    fillers = {"input_ids": pad_token_id, "labels": IGNORED, "attention_mask": 0}
    masked = [{**row, "attention_mask": [1] * len(row["input_ids"])} for row in rows]
    return {
        name: torch.tensor([row[name] + [fill] * (longest - len(row[name])) for row in masked])
        for name, fill in fillers.items()
    }


def pack(rows: Sequence[Features]) -> Batch:
    """All rows one after the other in a single one: [1, sum of lengths] ids, labels, positions.

    transformers keeps the samples apart where positions start again at 0, but only without an
    attention mask (one of all ones lets them see each other) and with use_cache=False.
    """
    placed = [{**row, "position_ids": [*range(len(row["labels"]))]} for row in rows]
    names = ("input_ids", "labels", "position_ids")
    return {name: torch.tensor([[i for row in placed for i in row[name]]]) for name in names}
