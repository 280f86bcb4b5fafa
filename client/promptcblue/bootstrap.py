"""How far a score could be from what it would be on other samples of the same kind.

Percentile bootstrap (Efron, 1979): draw as many samples as there are, with replacement, again and
again, and look at the spread of the scores.
"""

import random
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

from client.promptcblue.metrics import METRICS

RESAMPLES = 1000
LEVEL = 0.95


class Interval(NamedTuple):
    """Between which LEVEL of a score's resamples lie."""

    low: float
    high: float

    def text(self, form: str) -> str:
        """Both ends, formatted alike, in brackets."""
        return f"[{self.low:{form}}, {self.high:{form}}]"


def resampled(statistics: Mapping[str, Sequence[Any]], seed: int) -> dict[str, list[float]]:
    """RESAMPLES main scores of each task, and of `overall`, their mean; 0..1.

    `statistics` holds for each task what its metric's `sample` made of the samples, in the order
    of the gold file. With one seed the same samples are drawn, whatever was predicted for them:
    the differences of two models' scores, one by one, are those of a paired bootstrap.
    """
    scores = {task: _scores(task, samples, seed) for task, samples in statistics.items()}
    return scores | {"overall": [fmean(each) for each in zip(*scores.values(), strict=True)]}


def _scores(task: str, samples: Sequence[Any], seed: int) -> list[float]:
    metric, draw = METRICS[task], random.Random(f"{seed} {task}")
    return [
        metric.total(draw.choices(samples, k=len(samples)))[metric.main] for _ in range(RESAMPLES)
    ]


def interval(values: Sequence[float]) -> Interval:
    """Between which LEVEL of the values lie."""
    ordered = sorted(values)
    outside = round(len(ordered) * (1 - LEVEL) / 2)
    return Interval(ordered[outside], ordered[-1 - outside])
