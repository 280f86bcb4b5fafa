"""What a user gets who sets nothing, against vLLM's server started so too, and against settings.

    python -m tests.bench.defaults [--only serving training] [--json FILE]

serving   The demo and SmolLM2-135M, each server started with no flag but model and port. Our client
          asks ours, 64 connections ask vLLM's; every answer has 32 tokens. Beside them ours in
          every other number format, set by hand. Each server runs alone, since vLLM's takes nearly
          all memory for its cache; they take turns, --rounds times, and the medians count.
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
OURS, VLLM = "ours", "vLLM's server"
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
    """Prompts a second of both models, ours beside vLLM's and beside ours in other formats."""
    return [
        result
        for model, count in PROMPTS.items()
        for result in serve(model, count, rounds, folder, FORMATS)
    ]


def serve(
    model: Path, count: int, rounds: int, folder: Path, formats: Sequence[str] = ()
) -> list[Result]:
    """Ours by default against vLLM's by default, and against ours in each of `formats`."""
    prompts = Prompts(model, DATA)
    speeds: dict[str, list[float]] = {way: [] for way in (OURS, VLLM, *formats)}
    chosen = ""
    for turn in range(rounds):
        for way, each in speeds.items():
            if way == chosen:
                continue
            with started(way, model, folder) as server:
                if way == OURS:
                    chosen = httpx.get(server.url + "/info").raise_for_status().json()["dtype"]
                asked = asking(way, server, model, folder)
                speed(asked, prompts, min(count, 64))  # warm
                each.append(speed(asked, prompts, count))
            note(f"{model.parent.name}, round {turn + 1}: {way}: {each[-1]:.2f} prompts/s")
    us, them, *by_hand = (statistics.median(each) if each else 0.0 for each in speeds.values())
    name = f"{model.parent.name}: ours by default, {chosen} /"
    target = AGAINST_VLLM[chosen == "bfloat16"]
    return [
        at_least(f"{name} vLLM's server by default", us, them, "prompts/s", target),
        *(
            at_least(f"{name} {form} by hand", us, other, "prompts/s", AGAINST_A_FORMAT)
            for form, other in zip(formats, by_hand, strict=True)
            if form != chosen
        ),
    ]


@contextmanager
def started(way: str, model: Path, folder: Path) -> Iterator[Server]:
    """One server alone, ready: vLLM's takes nearly all of the memory for its cache."""
    service = ["-m", "service", "--model", str(model)]
    if way == VLLM:
        command = ["-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
        with Server(command, folder / "vllm.log", PLAIN) as server:
            server.wait_until("/health")
            yield server
    else:
        flags = [] if way == OURS else ["--dtype", way]
        with Server([*service, *flags], folder / "ours.log", {}) as server:
            server.wait_until("/readyz")
            yield server


def asking(way: str, server: Server, model: Path, folder: Path) -> Way:
    """Our client, or one prompt a request over 64 connections."""
    if way == VLLM:
        return Completions(server, 1, 64, model=str(model))
    return Ours(server, folder)


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
        # there and back: or the first of a round would always be the one after busy minutes
        for name, (environment, busy) in list(ways.items())[:: -1 if turn % 2 else 1]:
            with busy_processes(busy):
                taken[name].append(train(environment, folder / f"adapter-{turn}-{name}"))
            note(f"training, round {turn + 1}: {name}: {taken[name][-1]:.0f} ms an update")
    quiet, quiet_fixed, busy_default, busy_fixed = map(statistics.median, taken.values())
    beside = f"beside {cores} busy processes"
    return [
        at_most(f"training {beside} / quiet", busy_default, quiet, "ms", BUSY_LIMIT),
        at_most(f"training quiet / {cores} threads", quiet, quiet_fixed, "ms", QUIET_LIMIT),
        at_most(f"the same with {cores} threads fixed", busy_fixed, quiet_fixed, "ms", NO_TARGET),
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
