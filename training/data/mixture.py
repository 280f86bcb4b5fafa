"""Several files of samples as one stream, by weights: a pure function of settings."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import lcm
from random import Random


@dataclass(frozen=True)
class Part:
    """The samples of one file in a mixture."""

    samples: int
    weight: Fraction
    """Its share of the stream, in any unit; as many as there are samples: each once an epoch."""
    name: str = ""
    repeat: int = 1
    """How often an epoch counts each of them."""


@dataclass(frozen=True)
class Mixture:
    """Which sample stands at which place of the stream.

    At every place each part has had as many samples as its weight says, within one (Tijdeman, The
    chairman assignment problem, 1980). Its own samples come epoch by epoch, each a permutation.
    """

    parts: tuple[Part, ...]
    seed: int

    @property
    def epoch(self) -> int:
        """How many samples are an epoch: all of them, with repeats, whatever the weights."""
        return sum(part.samples * part.repeat for part in self.parts)

    def samples(self, start: int, stop: int) -> list[int]:
        """Indices into the samples of all parts, one after the other, at places start to stop."""
        parts = _assigned(self.parts, stop)
        done = [parts.count(number, 0, start) for number in range(len(self.parts))]
        first = [sum(part.samples for part in self.parts[:i]) for i in range(len(self.parts))]
        stream = []
        for number in parts[start:stop]:
            stream.append(first[number] + self._sample(number, done[number]))
            done[number] += 1
        return stream

    def _sample(self, number: int, place: int) -> int:
        count = self.parts[number].samples
        name = f"{self.seed}" if number == 0 else f"{self.seed} part {number}"
        return _epoch(name, count, place // count)[place % count]

    def describe(self) -> list[str]:
        """Say what an epoch is, and a line a part: its share, and how often each sample comes."""
        total = sum(part.weight for part in self.parts)
        shares = [(part, part.weight / total) for part in self.parts]
        return [
            f"an epoch is {self.epoch:,} samples",
            *(
                f"  {part.name}: {part.samples:,} samples, {float(share):.1%} of the stream, each"
                f" {float(share * self.epoch / part.samples):.2f} times an epoch"
                for part, share in shares
            ),
        ]


@lru_cache(maxsize=512)  # more than there may be files
def _epoch(name: str, count: int, epoch: int) -> list[int]:
    return Random(f"{name} epoch {epoch}").sample(range(count), count)


def _assigned(parts: Sequence[Part], places: int) -> bytes:
    """Which part each of the first `places` of the stream belongs to."""
    if len(parts) == 1:
        return bytes(places)
    assigned = _Assignment.of(tuple(part.weight for part in parts))
    assigned.extend(places)
    return bytes(assigned.made[:places])


class _Assignment:
    """The stream's parts as far as they have been asked for."""

    def __init__(self, weights: tuple[Fraction, ...]) -> None:
        scale = sum(weights)
        shares = [weight / scale for weight in weights]
        self._unit = lcm(*(share.denominator for share in shares))
        self._shares = [int(share * self._unit) for share in shares]
        self._due = [0] * len(weights)  # share * places - samples had, in units
        self.made = bytearray()

    @staticmethod
    @lru_cache(maxsize=2)
    def of(weights: tuple[Fraction, ...]) -> "_Assignment":
        """One for each mixture: every window of a run goes on where the last one ended."""
        return _Assignment(weights)

    def extend(self, places: int) -> None:
        """Go on up to that many."""
        shares, due, unit = self._shares, self._due, self._unit
        count = len(shares)
        allowed = 2 * count - 2
        while len(self.made) < places:
            for number in range(count):
                due[number] += shares[number]
            # of those whose deficit is large enough, the one whose deadline comes first
            chosen = min(
                (number for number in range(count) if due[number] * allowed >= unit),
                key=lambda n: (unit * (allowed - 1) - due[n] * allowed) / shares[n],
            )
            due[chosen] -= unit
            self.made.append(chosen)
