"""How a series of numbers is spread, for bars of HTML and CSS alone."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import NamedTuple

BINS = 24
BEYOND = 0.99  # of the values lie within the bins; the last bin holds the rest, too
FINEST = {"characters": 1.0, "tokens": 1.0, "s": 0.001}  # the least width of a bin, by unit


class Histogram(NamedTuple):
    """Quantiles in words, then for each bin its share of the highest and what it counts."""

    name: str
    facts: str
    bars: list[tuple[float, str]]
    scale: list[str]


def histograms(series: Mapping[str, Sequence[float]], unit: str) -> list[Histogram]:
    """All in the same bins; without those that have no values."""
    width = max(_quantile(chain(*series.values()), BEYOND) / BINS, FINEST[unit])
    return [_histogram(name, each, width, unit) for name, each in series.items() if each]


def _quantile(values: Iterable[float], part: float) -> float:
    """0 of none."""
    ordered = sorted(values) or [0]
    return ordered[int(part * (len(ordered) - 1))]


def _histogram(name: str, values: Sequence[float], width: float, unit: str) -> Histogram:
    counts = [0] * BINS
    for value in values:
        counts[min(int(value / width), BINS - 1)] += 1
    bars = [
        (count / max(counts), f"from {place * width:.4g} {unit}: {count}")
        for place, count in enumerate(counts)
    ]
    middle, late, longest = (_quantile(values, part) for part in (0.5, 0.95, 1))
    facts = f"median {middle:.4g}, 95 % up to {late:.4g}, longest {longest:.4g} {unit}"
    ends = ("0", f"{BINS / 2 * width:.4g}", f"≥ {(BINS - 1) * width:.4g}")
    return Histogram(name, facts, bars, [f"{end} {unit}" for end in ends])
