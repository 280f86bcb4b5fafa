"""A long mixed load on a server of its own: does it err, does its memory grow?

    python -m tests.bench.soak --minutes 30 [--adapters "name=directory …"] [--polite]

Beside the clients that count another one sends every kind of hostile traffic (bench/hostile).
Every minute it prints requests, errors (any answer other than the contract's), resident memory of
the server's own process and of the engine's, and open files. At the end comes the slope of memory,
fitted over the last four fifths. It exits with 1 after an error, or when one of them grew faster
than MOST_MB_AN_HOUR. A run of a few minutes sees errors, but of memory only the warm-up.
"""

import argparse
import asyncio
import math
import os
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.bench.hostile.kinds import attacked
from tests.bench.hostile.kinds import kinds as hostile_kinds
from tests.bench.soak_requests import Kind, kinds
from tests.paths import DEMO
from tests.server import ServerProcess, serving

# the engine's goes up and down by 300 MB within each minute (service/machine/memory.py)
MOST_MB_AN_HOUR = {"server": 30, "engine": 150}
WARM_UP = 0.2
SAMPLE_EVERY_S, PRINT_EVERY_S = 5, 60
ERRORS_SHOWN = 20


@dataclass(frozen=True)
class Sample:
    """What the server's processes hold at one time; memory in MB."""

    seconds: float
    server_mb: float
    engine_mb: float
    files: int


class Soak:
    """Clients that ask for one kind after another, and what came of it."""

    def __init__(self, server: ServerProcess, seconds: float, found: dict[str, Kind]) -> None:
        self._server = server
        self._engine = server.descendants()
        self._kinds = found
        self._started = time.monotonic()
        self._seconds = seconds
        self.asked: Counter[str] = Counter()
        self.errors: list[str] = []
        self.samples: list[Sample] = []

    async def run(self, clients: int) -> None:
        """Load and measure for the time given."""
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=self._server.url, timeout=120, limits=limits) as http:
            await asyncio.gather(self._watch(), *(self._client(http) for _ in range(clients)))

    def _elapsed(self) -> float:
        return time.monotonic() - self._started

    def _goes_on(self) -> bool:
        """Until the time is over, or the server has ended."""
        return self._server.process.poll() is None and self._elapsed() < self._seconds

    async def _client(self, http: httpx.AsyncClient) -> None:
        while self._goes_on():
            name = random.choice(list(self._kinds))
            try:
                await self._kinds[name](http)
            except Exception as error:  # whatever it is, the soak goes on and counts it
                self.errors.append(f"{name}: {type(error).__name__}: {error}")
                if len(self.errors) <= ERRORS_SHOWN:
                    print("error:", self.errors[-1], flush=True)
                await asyncio.sleep(1)
            self.asked[name] += 1

    async def _watch(self) -> None:
        printed = 0.0
        await asyncio.sleep(SAMPLE_EVERY_S)
        while self._goes_on():
            self.samples.append(self._sample())
            if self._elapsed() - printed >= PRINT_EVERY_S:
                printed = self._elapsed()
                self._print()
            await asyncio.sleep(SAMPLE_EVERY_S)

    def _sample(self) -> Sample:
        pid = self._server.process.pid
        engine = sum(_resident_mb(each) for each in self._engine)
        files = len(os.listdir(f"/proc/{pid}/fd"))
        return Sample(self._elapsed(), _resident_mb(pid), engine, files)

    def _print(self) -> None:
        last = self.samples[-1]
        print(
            f"{last.seconds / 60:6.1f} min  {self.asked.total():7d} requests  "
            f"{len(self.errors)} errors  server {last.server_mb:.0f} MB  "
            f"engine {last.engine_mb:.0f} MB  {last.files} files",
            flush=True,
        )

    def slope(self, field: str) -> float:
        """By how much `field` grows in an hour, without the warm-up; NaN where that is all."""
        late = [each for each in self.samples if each.seconds > WARM_UP * self._seconds]
        if len(late) < 2:
            return math.nan
        hours = [each.seconds / 3600 for each in late]
        return statistics.linear_regression(hours, [getattr(each, field) for each in late]).slope


def _resident_mb(pid: int) -> float:
    """0 for a process that has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return 0
    return sum(int(line.split()[1]) for line in status.splitlines() if "VmRSS:" in line) / 1024


def main() -> int:
    """Serve, load, report."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--model", type=Path, default=DEMO / "model")
    parser.add_argument("--adapters", default="", help="as the service's --adapters")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--polite", action="store_true", help="no hostile traffic beside it")
    asked = parser.parse_args()
    attacks = list(hostile_kinds("model").values())
    settings: dict[str, Any] = {"log_level": "warning", "served_name": "model"}
    if asked.adapters:
        settings["adapters"] = asked.adapters
    names = [each.partition("=")[0] for each in asked.adapters.split()]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "server.log"
        with serving(asked.model, log, **settings) as server:
            soak = Soak(server, asked.minutes * 60, kinds(names))
            hostile = nullcontext() if asked.polite else attacked(server.port, attacks)
            with hostile:
                asyncio.run(soak.run(asked.clients))
            in_flight = 0.0
            if server.process.poll() is None:
                time.sleep(2)  # what the hostile process left is noticed
                in_flight += server.metric("mergeline_requests_in_flight")
                in_flight += abs(server.metric("mergeline_prompts_in_flight"))
        if soak.errors or server.process.returncode:
            print(log.read_text(errors="replace")[-3000:])
    return report(soak, in_flight, server.process.returncode)


def report(soak: Soak, in_flight: float, exit_code: int) -> int:
    """Print the outcome; 0 when all is well."""
    print(", ".join(f"{name} {count}" for name, count in sorted(soak.asked.items())))
    grows = False
    for process, most in MOST_MB_AN_HOUR.items():
        growth = soak.slope(f"{process}_mb")
        grows |= growth > most
        print(f"{process}: {growth:+.1f} MB an hour (at most {most} are allowed)")
    print(f"open files of the server: {soak.slope('files'):+.1f} an hour")
    print(
        f"{soak.asked.total()} requests, {len(soak.errors)} errors, {in_flight:.0f} left in flight"
    )
    bad = soak.errors or in_flight or exit_code or grows
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
