"""Which samples make up which update: a pure function of settings, so that resuming is exact."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from random import Random

from training.data.collate import Features
from training.data.mixture import Mixture, Part

WINDOW = 50  # updates whose samples are sorted by length together


@dataclass(frozen=True)
class Dataset:
    """The samples of a split, file by file."""

    samples: Sequence[Features] = ()
    parts: tuple[Part, ...] = ()


@dataclass(frozen=True, eq=False)  # hashed by identity: thousands of lengths are not
class SampleOrder:
    """The batches of a run of `updates` updates, `batch_size` samples each.

    The samples follow one another as in the mixture, without a gap, so every batch is full. With
    `grouped`, the samples of `WINDOW` updates are sorted by length before they are cut into
    batches, and those batches come in random order.
    """

    lengths: tuple[int, ...]
    batch_size: int
    updates: int
    mixture: Mixture
    grouped: bool

    def batch(self, update: int) -> list[int]:
        """Indices of the samples of one update, counted from 0."""
        return _window(self, update // WINDOW)[update % WINDOW]


def updates_of(samples: int, batch_size: int, epochs: float) -> int:
    """How many updates see every one of `samples` `epochs` times, the last batch filled up."""
    return max(1, -(-round(samples * epochs) // batch_size))


def micro_batches(batch: Sequence[int], rank: int, world: int, size: int | None) -> list[list[int]]:
    """The share of `batch` of one of `world` processes, in pieces of at most `size` samples.

    Neighbours go to different processes: sorted by length, all get like work.
    """
    share = list(batch[rank::world])
    size = size or len(share)
    return [share[start : start + size] for start in range(0, len(share), size)]


@lru_cache(maxsize=2)
def _window(order: SampleOrder, number: int) -> list[list[int]]:
    first = number * WINDOW
    count = min(WINDOW, order.updates - first)
    size = order.batch_size
    samples = order.mixture.samples(first * size, (first + count) * size)
    if order.grouped:
        samples.sort(key=order.lengths.__getitem__)
    batches = [samples[start : start + size] for start in range(0, len(samples), size)]
    return Random(f"{order.mixture.seed} window {number}").sample(batches, count)
