"""How likely the ids were that a server chose, where rounding moves what it chose by."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from training.rendering.conversation import encode_prompt

Answer = list[dict[str, Any]]
"""As the service gives log-probabilities: a token, its own, and the likeliest ones there."""


@dataclass(frozen=True)
class Chosen:
    """For each id how far its logit lies below the largest, and how far rounding moves a logit.

    `off` is by how much a log-probability that was served differs from the model's.
    """

    gaps: list[float]
    moved: float
    off: float

    @property
    def others(self) -> int:
        """How many ids are not the likeliest."""
        return sum(gap > 0 for gap in self.gaps)

    def __str__(self) -> str:
        return (
            f"{self.others} of {len(self.gaps)} ids are not the likeliest, by up to"
            f" {max(self.gaps):.3g}; rounding moves a logit by up to {self.moved:.3g};"
            f" log-probabilities differ by up to {self.off:.3g}"
        )


def chosen(
    model: Any, rounded: Any, tokenizer: Any, prompts: Sequence[str], served: Sequence[Answer]
) -> Chosen:
    """Of `served`, each prompt's tokens, by `model`; `rounded` is the same with the rounding."""
    gaps, moved, off = [], 0.0, 0.0
    for prompt, answer in zip(prompts, served, strict=True):
        ids = [position["token_id"] for position in answer]
        context = encode_prompt(tokenizer, prompt)
        logits, other = (_logits(each, context, ids) for each in (model, rounded))
        moved = max(moved, float((logits - other).abs().max()))
        gaps += (logits.max(dim=1).values - logits[range(len(ids)), ids]).tolist()
        off = max(off, *map(_off, logits.log_softmax(dim=1), answer))
    return Chosen(gaps, moved, off)


def _off(expected: torch.Tensor, position: Mapping[str, Any]) -> float:
    """Of one position's tokens."""
    told = [position, *position["top_logprobs"]]
    return max(abs(float(expected[one["token_id"]]) - float(one["logprob"])) for one in told)


@torch.no_grad()
def _logits(model: Any, context: list[int], ids: list[int]) -> torch.Tensor:
    """[ids, vocabulary]: what each id was chosen by."""
    logits: torch.Tensor = model(input_ids=torch.tensor([context + ids])).logits
    return logits[0, len(context) - 1 : -1].float()
