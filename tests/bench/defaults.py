"""What a user gets who sets nothing, against vLLM's server started so too, and against settings.

    python -m tests.bench.defaults [--only serving training] [--json FILE]

serving   The demo and SmolLM2-135M, each server started with no flag but model and port. Our client
          asks ours, 64 connections ask vLLM's; every answer has 32 tokens. Then ours once more, in
          every number format set by hand. Two servers run at a time and take turns, --rounds times;
          the medians count.
training  100 updates of the demo's adapter, quiet and beside as many busy processes as there are
          cores; the same with the number of threads fixed, as torch chooses it by itself.

Exit code 1 when a target is missed.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.bench.report import NO_TARGET, Result, at_least, at_most, note, report
from tests.bench.serving_processes import PLAIN, Server
from tests.bench.serving_ways import Completions, Ours, Prompts, Way, speed
from tests.paths import DEMO, ROOT, SMOLLM2

DATA = DEMO / "data" / "train.json"
PROMPTS = {DEMO / "model": 400, SMOLLM2: 64}  # a round
FORMATS = ("float32", "bfloat16", "float16")
AGAINST_VLLM = {True: 1.1, False: 4.0}  # with bf16 instructions, and without
AGAINST_A_FORMAT = 0.9
BUSY_LIMIT, QUIET_LIMIT = 2.5, 1.05
UPDATES = 100
BATCH = 8


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the parts asked for; 0 when all their targets are reached."""
    parts: dict[str, Callable[[int, Path], list[Result]]] = {
        "serving": serving,
        "training": training,
    }
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.defaults",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", nargs="+", choices=parts, metavar="PART", default=[*parts])
    parser.add_argument("--rounds", type=int, default=3, help="(default: 3)")
    parser.add_argument("--json", type=Path, help="write the results here too")
    options = parser.parse_args(arguments)
    for model, target in {DEMO / "model": "demo", SMOLLM2: "smollm2"}.items():
        if not (model / "config.json").is_file():
            print(f"error: {model} is not built: run `make {target}`", file=sys.stderr)
            return 2
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as scratch:
        for name in options.only:
            note(f"{name} …")
            results += parts[name](options.rounds, Path(scratch))
    return report(results, options.json)


def serving(rounds: int, folder: Path) -> list[Result]:
    """Prompts a second of both models."""
    return [
        result
        for model, count in PROMPTS.items()
        for measure in (against_vllm, against_formats)
        for result in measure(model, count, rounds, folder)
    ]


def against_vllm(model: Path, count: int, rounds: int, folder: Path) -> list[Result]:
    """Ours by default beside vLLM's by default."""
    with ours(model, folder) as us, theirs(model, folder) as them:
        chosen = format_of(us)
        asked = Completions(them, 1, 64, model=str(model))
        speeds = in_turns(model, count, rounds, Ours(us, folder), asked)
    what = f"{model.parent.name}: ours by default, {chosen} / vLLM's server by default"
    target = AGAINST_VLLM[chosen == "bfloat16"]
    return [at_least(what, *speeds, "prompts/s", target)]


def against_formats(model: Path, count: int, rounds: int, folder: Path) -> Iterator[Result]:
    """Ours by default beside ours in each other format."""
    for by_hand in FORMATS:
        with ours(model, folder) as us:
            chosen = format_of(us)
            if chosen == by_hand:
                continue
            with ours(model, folder, "--dtype", by_hand) as other:
                ways = Ours(us, folder), Ours(other, folder)
                speeds = in_turns(model, count, rounds, *ways)
        what = f"{model.parent.name}: ours by default, {chosen} / {by_hand} by hand"
        yield at_least(what, *speeds, "prompts/s", AGAINST_A_FORMAT)


def format_of(server: Server) -> str:
    """The number format that it computes in."""
    return str(httpx.get(server.url + "/info").raise_for_status().json()["dtype"])


@contextmanager
def ours(model: Path, folder: Path, *flags: str) -> Iterator[Server]:
    """`python -m service` with model, port and `flags`, ready."""
    command = ["-m", "service", "--model", str(model), *flags]
    with Server(command, folder / "ours.log", {}) as server:
        server.wait_until("/readyz")
        yield server


@contextmanager
def theirs(model: Path, folder: Path) -> Iterator[Server]:
    """vLLM's server with model and port, ready."""
    command = ["-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
    with Server(command, folder / "vllm.log", PLAIN) as server:
        server.wait_until("/health")
        yield server


def in_turns(model: Path, count: int, rounds: int, us: Way, other: Way) -> tuple[float, float]:
    """Prompts a second of both ways, the median of `rounds`."""
    prompts = Prompts(model, DATA)
    speeds: dict[Way, list[float]] = {us: [], other: []}
    for way in speeds:
        speed(way, prompts, min(count, 64))  # warm
    for turn in range(rounds):
        for way, each in speeds.items():
            each.append(speed(way, prompts, count))
        told = " / ".join(f"{each[-1]:.2f}" for each in speeds.values())
        note(f"{model.parent.name}, round {turn + 1}: {told} prompts/s")
    return statistics.median(speeds[us]), statistics.median(speeds[other])


def training(rounds: int, folder: Path) -> list[Result]:
    """Milliseconds an update, quiet and busy, by default and with fixed threads."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cores = cores or 1
    ways: dict[str, tuple[dict[str, str], int]] = {
        "quiet, default": ({}, 0),
        "quiet, fixed": ({"OMP_NUM_THREADS": str(cores)}, 0),
        "busy, default": ({}, cores),
        "busy, fixed": ({"OMP_NUM_THREADS": str(cores)}, cores),
    }
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds):
        for name, (environment, busy) in ways.items():
            with busy_processes(busy):
                taken[name].append(train(environment, folder / f"adapter-{turn}-{name}"))
            note(f"training, round {turn + 1}: {name}: {taken[name][-1]:.0f} ms an update")
    quiet, quiet_fixed, busy_default, busy_fixed = map(statistics.median, taken.values())
    beside = f"beside {cores} busy processes"
    return [
        at_most(f"training {beside} / quiet", busy_default, quiet, "ms", BUSY_LIMIT),
        at_most(f"training quiet / {cores} threads", quiet, quiet_fixed, "ms", QUIET_LIMIT),
        at_most(f"{cores} threads: the same", busy_fixed, quiet_fixed, "ms", NO_TARGET),
    ]


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Neighbours that want a core each."""
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def train(environment: Mapping[str, str], output: Path) -> float:
    """Milliseconds an update of the demo's recipe, as its log tells: without start and end."""
    rows = DATA.read_bytes().count(b"\n")
    settings = {
        "model": DEMO / "base",
        "output": output,
        "data.train": DATA,
        "data.eval": "null",
        "optim.batch_size": BATCH,
        "optim.epochs": UPDATES * BATCH / rows,
        "log_every": UPDATES,
    }
    command = [
        sys.executable,
        "-m",
        "training.train",
        "--config",
        "training/recipes/demo_lora.yaml",
    ]
    command += [f"{key}={value}" for key, value in settings.items()]
    free = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    subprocess.run(command, cwd=ROOT, env={**free, **environment}, check=True, capture_output=True)
    log = output.with_name(output.name + ".run") / "log.jsonl"
    records = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
    speeds = [float(one["samples_per_s"]) for one in records if "samples_per_s" in one]
    return 1000 * BATCH / speeds[0]


if __name__ == "__main__":
    sys.exit(main())
