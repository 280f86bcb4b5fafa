"""Time and peak memory of merging, against cp -r and against peft's way, side by side.

Run: python -m tests.bench.merging   (needs 13 GB in build/bench and 5 minutes; removed at the end)

A 1.26B fp16 LLaMA is merged with a rank 8 adapter on its seven projections by training.merge and
by load + merge_and_unload + save_pretrained, each in a process of its own, in turns with cp -r;
the best of each counts; so is training.merge --quantize int8. Then training.merge alone at 0.3B and
2.5B. Exits 1 over a limit.
With --7b (41 GB, 5 minutes): two adapters into LLaMA-7B's 13.5 GB, in turns with cp -r.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from tests.bench.merging_inputs import SIZES, write

ROOT = Path("build/bench/merging")
ROUNDS = 3
PEFT_ROUNDS = 2
TIMES_COPY, SHARE_OF_PEFT_TIME, SHARE_OF_PEFT_MEMORY, GROWTH = 3.0, 0.20, 0.15, 0.10
TIMES_MERGE, QUANTISING_MIB = 2.0, 400


@dataclass(frozen=True)
class Run:
    """Wall seconds, CPU seconds, peak resident MiB of one process."""

    seconds: float
    busy: float
    peak: float

    def __str__(self) -> str:
        return f"{self.seconds:5.1f} s {self.busy:5.1f} s of CPU {self.peak:6.0f} MiB"


@dataclass(frozen=True)
class Limit:
    """One claim about the measurements: `value` must not exceed `most`."""

    claim: str
    value: float
    most: float

    def __str__(self) -> str:
        verdict = "ok" if self.value <= self.most else "OVER"
        return f"{verdict:4} {self.claim}: {self.value:.3f} (limit {self.most})"


def main() -> int:
    """Measure everything; return 1 when a limit is broken."""
    limits = _against_others()
    small, large = (_ours_alone(size) for size in ("0.3B", "2.5B"))
    limits.append(Limit("peak growth from 0.3B to 2.5B", large.peak / small.peak - 1, GROWTH))
    print(*limits, sep="\n")
    return int(any(limit.value > limit.most for limit in limits))


def _against_others() -> list[Limit]:
    with _inputs("1.26B") as root:
        copies, ours, quantised, theirs = [], [], [], []
        for number in range(ROUNDS):
            copies.append(_measure("cp -r", root / "copy", "cp", "-r", str(root / "base")))
            ours.append(_ours(root))
            quantised.append(_ours(root, "--quantize", "int8"))
            if number < PEFT_ROUNDS:
                theirs.append(_peft(root))
    copy, our, int8, their = (
        min(runs, key=lambda run: run.seconds) for runs in (copies, ours, quantised, theirs)
    )
    peak, peak_of_int8 = (max(run.peak for run in runs) for runs in (ours, quantised))
    return [
        Limit("time / cp -r", our.seconds / copy.seconds, TIMES_COPY),
        Limit("time / peft", our.seconds / their.seconds, SHARE_OF_PEFT_TIME),
        Limit("peak / peft", peak / min(run.peak for run in theirs), SHARE_OF_PEFT_MEMORY),
        Limit("int8: time / merge", int8.seconds / our.seconds, TIMES_MERGE),
        Limit("int8: peak MiB", peak_of_int8, QUANTISING_MIB),
    ]


def measure_7b() -> int:
    """Merge two adapters into a LLaMA-7B, three times in turns with cp -r; return 0."""
    with _inputs("7B", adapters=2) as root:
        pairs = []
        for _ in range(ROUNDS):
            copy = _measure("cp -r", root / "copy", "cp", "-r", str(root / "base"))
            pairs.append((copy, _ours(root)))
    times = sorted(ours.seconds / copy.seconds for copy, ours in pairs)
    print(f"time / cp -r: {', '.join(f'{each:.2f}' for each in times)}")
    return 0


def _ours_alone(size: str) -> Run:
    with _inputs(size) as root:
        return _ours(root)


@contextmanager
def _inputs(size: str, adapters: int = 1) -> Iterator[Path]:
    root = ROOT / size
    shutil.rmtree(root, ignore_errors=True)
    print(f"{size}, fp16", flush=True)
    try:
        # a process of its own: a child's peak counts what its parent held when it was started
        command = [sys.executable, "-m", __spec__.name, "--write", str(root), size, str(adapters)]
        subprocess.run(command, check=True)
        yield root
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _ours(root: Path, *options: str) -> Run:
    arguments = ("-m", "training.merge", "--base", str(root / "base"))
    adapters = (("--adapter", str(path)) for path in sorted(root.glob("adapter-*")))
    words = (*arguments, *chain(*adapters), *options, "--output")
    return _measure(" ".join(("training.merge", *options)), root / "ours", sys.executable, *words)


def _peft(root: Path) -> Run:
    arguments = (sys.executable, "-m", __spec__.name, "--peft", str(root))
    return _measure("peft", root / "theirs", *arguments)


def _measure(name: str, output: Path, *command: str) -> Run:
    """Run `command` with `output` as its last argument, which is removed afterwards."""
    started = time.monotonic()
    process = subprocess.Popen([*command, str(output)], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command} ended with {process.returncode}")
    busy = usage.ru_utime + usage.ru_stime
    run = Run(time.monotonic() - started, busy, usage.ru_maxrss / 1024)
    print(f"  {name:30} {run}", flush=True)
    shutil.rmtree(output)
    return run


def merge_with_peft(root: Path, output: Path) -> None:
    """Merge the usual way: the whole model in memory, in its own dtype."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(root / "base", dtype="auto")
    merged = PeftModel.from_pretrained(model, root / "adapter-0").merge_and_unload()
    merged.save_pretrained(output)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--peft", nargs=2, type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--7b", action="store_true", dest="seven", help="LLaMA-7B's sizes alone")
    args = parser.parse_args()
    if args.write:
        write(Path(args.write[0]), SIZES[args.write[1]], int(args.write[2]))
    elif args.peft:
        merge_with_peft(*args.peft)
    else:
        sys.exit(measure_7b() if args.seven else main())
