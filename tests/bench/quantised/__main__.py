"""What int8 weights bring on this machine's CPU: speed, latency, memory, size, side by side.

    python -m tests.bench.quantised [--rounds 3] [--json FILE]

The demo and SmolLM2-135M, each written in float32, in bfloat16 and in int8, and served with no flag
but model and port, the first two with --dtype as well. Our client asks; every answer has 32 tokens.
Each server runs alone; they take turns, --rounds times, and the medians count. Without VNNI int8
has 7 bits, the only ones that are served there.

Exit code 1 when a target is missed: 1.15 times the tokens/s of float32 for SmolLM2, half its size.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from service.machine.cpu_kernels import lacks_vnni
from service.machine.processor import instructions
from tests.bench.report import NO_TARGET, Result, at_least, at_most, note, report
from tests.bench.serving_processes import Server
from tests.bench.serving_ways import TOKENS, Ours, Prompts, speed
from tests.paths import DEMO, SMOLLM2
from training.merge.job import WeightsFormat, merge
from training.merge.quantisation import Quantisation

DATA = DEMO / "data" / "train.json"
PROMPTS = {DEMO / "model": 400, SMOLLM2: 64}  # a round
ALONE = 8  # prompts asked one by one, for the latency
INT8 = "int8"
FLOATS = ("float32", "bfloat16")
FASTER, SIZE = 1.15, 0.5  # of float32, for SmolLM2


@dataclass(frozen=True)
class Measured:
    """Of one server: output tokens a second, seconds an answer alone, bytes."""

    speed: float
    latency: float
    memory: float

    def __str__(self) -> str:
        return (
            f"{self.speed:.0f} tokens/s, {TOKENS} tokens alone in {self.latency:.2f} s,"
            f" {self.memory / 1e6:.0f} MB"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure both models; 0 when all targets are reached, 2 when one is not built."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.quantised",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=3, help="(default: 3)")
    parser.add_argument("--json", type=Path, help="write the results here too")
    options = parser.parse_args(arguments)
    for model, target in {DEMO / "model": "demo", SMOLLM2: "smollm2"}.items():
        if not (model / "config.json").is_file():
            print(f"error: {model} is not built: run `make {target}`", file=sys.stderr)
            return 2
    with tempfile.TemporaryDirectory() as scratch:
        results = [
            result
            for model, count in PROMPTS.items()
            for result in compare(model, count, options.rounds, Path(scratch) / model.parent.name)
        ]
    return report(results, options.json)


def compare(model: Path, count: int, rounds: int, folder: Path) -> Iterator[Result]:
    """int8 against both floats: what is measured of the servers, and the directories' sizes."""
    folder.mkdir()
    forms = written(model, folder)
    prompts = Prompts(model, DATA)
    measured: dict[str, list[Measured]] = {form: [] for form in forms}
    for turn in range(rounds):
        for form, directory in forms.items():
            measured[form].append(serve(directory, form, prompts, count))
            note(f"{model.parent.name}, round {turn + 1}: {form}: {measured[form][-1]}")
    is_target = model == SMOLLM2
    name = f"{model.parent.name}: int8 /"
    ours = median(measured[INT8])
    for form in FLOATS:
        other = median(measured[form])
        has_target = is_target and form == "float32"
        faster, size = (FASTER, SIZE) if has_target else (NO_TARGET, NO_TARGET)
        yield at_least(f"{name} {form}, output", ours.speed, other.speed, "tokens/s", faster)
        yield at_most(
            f"{name} {form}, {TOKENS} tokens alone", ours.latency, other.latency, "s", NO_TARGET
        )
        yield at_most(f"{name} {form}, memory", *megabytes(ours.memory, other.memory), NO_TARGET)
        sizes = (directory_size(forms[each]) for each in (INT8, form))
        yield at_most(f"{name} {form}, directory", *megabytes(*sizes), size)


def written(model: Path, folder: Path) -> dict[str, Path]:
    """The model in every form, by its name."""
    quantisation = Quantisation.of(INT8, reduce_range=lacks_vnni(instructions()))
    quantised = WeightsFormat(quantisation=quantisation)
    formats = {form: WeightsFormat(form) for form in FLOATS} | {INT8: quantised}
    for form, weights in formats.items():
        merge(model, [], folder / form, weights)
    return {form: folder / form for form in formats}


def serve(model: Path, form: str, prompts: Prompts, count: int) -> Measured:
    """Start a server, alone, and ask it."""
    dtype = [] if form == INT8 else ["--dtype", form]
    command = ["-m", "service", "--model", str(model), *dtype]
    with Server(command, model.with_name(f"{form}.log"), {}) as server:
        server.wait_until("/readyz")
        asked = Ours(server, model.parent)
        speed(asked, prompts, min(count, 64))  # warm
        fast = speed(asked, prompts, count) * TOKENS
        seconds = []
        for _ in range(ALONE):
            started = time.monotonic()
            asked.answer(prompts.take(1), [])
            seconds.append(time.monotonic() - started)
        return Measured(fast, statistics.median(seconds), memory_of(server.process.pid))


def memory_of(pid: int) -> float:
    """Bytes that a process and its children hold for themselves, shared pages by their part."""
    folder = Path(f"/proc/{pid}")
    lines = (folder / "smaps_rollup").read_text().splitlines()
    own = next(1024.0 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    children = " ".join(each.read_text() for each in folder.glob("task/*/children")).split()
    return own + sum(memory_of(int(child)) for child in children)


def median(measured: Sequence[Measured]) -> Measured:
    """Of each figure by itself."""
    return Measured(
        *(
            statistics.median(getattr(each, name) for each in measured)
            for name in ("speed", "latency", "memory")
        )
    )


def directory_size(model: Path) -> float:
    """Bytes of all files."""
    return float(sum(path.stat().st_size for path in model.rglob("*") if path.is_file()))


def megabytes(one: float, other: float) -> tuple[float, float, str]:
    """Both, and their unit."""
    return one / 1e6, other / 1e6, "MB"


if __name__ == "__main__":
    sys.exit(main())
