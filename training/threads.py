"""How many CPU threads torch computes with: what this process may use, and what others leave.

Two OpenMP threads wait for one another in every operator. On two quiet cores a step of a tiny
LLaMA's pre-training took 154 ms with two threads and 247 with one; beside two busy processes 564
and 382, since each waits, spinning, for one that has lost its core.
"""

import math
import os
import time
from pathlib import Path
from typing import Self

import torch

from training.cgroups import ROOT, cpu_quota, read

LOOK_EVERY_S = 1.0
ROUNDED_UP = 0.3  # of a core: a quiet machine is never quite idle


class Threads:
    """Held by a run; `look` is called after every step, and costs nothing most of the time.

    The first number comes from the seconds before it, in which the model was loaded.

    The number stays as it is where OMP_NUM_THREADS is set: with equal numbers two runs are equal
    bit by bit, with others in all but the last bits of their sums.
    """

    def __init__(self) -> None:
        self._fixed = "OMP_NUM_THREADS" in os.environ
        self._most = torch.get_num_threads()
        if not self._fixed:
            self._most = usable_threads(self._most)
            torch.set_num_threads(self._most)
        self._seen = _IMPORTED
        self.look()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Leave torch the number it began with: what follows in this process counts from it."""
        torch.set_num_threads(self._most)

    def look(self) -> None:
        """Once a second: take as many cores as this process had and others left idle."""
        if self._fixed or self._most == 1 or time.monotonic() - self._seen[0] < LOOK_EVERY_S:
            return
        before, self._seen = self._seen, _clocks()
        seconds, ours, idle = (now - then for now, then in zip(self._seen, before, strict=True))
        torch.set_num_threads(threads_for((ours + idle) / seconds, self._most))


def threads_for(cores: float, most: int) -> int:
    """Threads for so many cores' worth of time, own and idle: at least one, at most `most`."""
    return max(1, min(most, math.floor(cores + ROUNDED_UP)))


def usable_threads(most: int, root: Path = ROOT) -> int:
    """At most `most`, and no more than this process's CPUs and the whole CPUs of its quota."""
    return max(1, math.floor(min(most, len(_allowed()), cpu_quota(root))))


def _clocks() -> tuple[float, float, float]:
    """Seconds: of the clock, of this process on all cores, of all cores it may use when idle."""
    return time.monotonic(), time.process_time(), _idle_seconds()


def _idle_seconds(root: Path = ROOT) -> float:
    names = {f"cpu{number}" for number in _allowed()}
    lines = (line.split() for line in read(root / "proc/stat").splitlines())
    ticks = sum(int(words[4]) + int(words[5]) for words in lines if words[0] in names)
    return ticks / os.sysconf("SC_CLK_TCK")


def _allowed() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


_IMPORTED = _clocks()
