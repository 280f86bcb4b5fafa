"""One sample before it has an id, and the few moves that every task makes."""

from collections.abc import Sequence
from random import Random
from typing import NamedTuple


class Draft(NamedTuple):
    """The model's input, what it should answer, and the labels it may choose from."""

    input: str
    target: str
    choices: list[str] | None = None


def question(rng: Random, *lines: str) -> str:
    """Join `lines`; about half of the benchmark's inputs end with "答："."""
    return "\n".join(lines) + rng.choice(("", "\n答："))


def options(rng: Random, gold: str, labels: Sequence[str], most: int = 5) -> list[str]:
    """Two to `most` shuffled labels with `gold` among them."""
    others = [label for label in labels if label != gold]
    chosen = [gold, *rng.sample(others, rng.randint(1, min(most, len(labels)) - 1))]
    rng.shuffle(chosen)
    return chosen


def listed(words: Sequence[str]) -> str:
    """Words as the benchmark lists them."""
    return "，".join(words)
