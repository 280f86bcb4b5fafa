"""Our service and client against other ways to have the same prompts answered by the same model.

    python -m tests.bench.serving [--only throughput latency start defaults] [--json FILE]

Everything runs on this machine with a random LLaMA (4 layers, hidden size 64, float32, the demo's
tokenizer), so that what surrounds the model shows, and with the same engine settings. Every answer
has 32 tokens. All ways take turns, three times (--rounds); the medians count. The engine has one
thread; transformers is measured with those that torch takes by itself, as in the original client,
and with one, which can be faster for a model so small. The last part sets nothing, neither for us
nor for vLLM's server; `make bench-defaults` does so with other models. Exit code 1 when a target
is missed.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
from transformers import AutoTokenizer

from tests.bench.defaults import serve
from tests.bench.report import NO_TARGET, Result, at_least, at_most, note, report
from tests.bench.serving_processes import Server, Worker, both_servers, our_server, vllm_server
from tests.bench.serving_ways import (
    TOKENS,
    Completions,
    Generate,
    Offline,
    Ours,
    Prompts,
    Way,
    speed,
)
from tests.bench.serving_ways import completion_body as body_of
from tests.models import tiny_llama
from tests.paths import DEMO

DATA = DEMO / "data" / "train.json"
LIVE_WITHIN_S = 3.0
WARM = 10
SIZES: dict[str, Any] = {
    **{"hidden_size": 64, "intermediate_size": 172, "num_hidden_layers": 4},
    **{"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 4096},
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the parts asked for; 0 when all their targets are reached."""
    options = _parser().parse_args(arguments)
    if not (DEMO / "model" / "config.json").is_file():
        print(f"error: {DEMO} is not built: run `make demo`", file=sys.stderr)
        return 2
    parts: dict[str, Callable[[argparse.Namespace, Path], list[Result]]] = {
        "throughput": throughput,
        "latency": latency,
        "start": start,
        "defaults": defaults,
    }
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as scratch:
        options.model = options.model or tiny_model(Path(scratch) / "model")
        for name in options.only or parts:
            note(f"{name} …")
            results += parts[name](options, Path(scratch))
    return report(results, options.json)


def tiny_model(folder: Path) -> Path:
    """A random model with the demo's tokenizer and template."""
    tokenizer = AutoTokenizer.from_pretrained(DEMO / "model")
    tiny_llama(folder, vocab_size=len(tokenizer), **SIZES)
    tokenizer.save_pretrained(folder)
    return folder


def throughput(options: argparse.Namespace, folder: Path) -> list[Result]:
    """Prompts a second of every way."""
    prompts = Prompts(options.model, DATA)
    with ExitStack() as stack:
        ours, theirs = stack.enter_context(both_servers(options.model, folder))
        log = folder / "worker.log"
        offline = stack.enter_context(Worker("offline", options.model, log))
        plain = stack.enter_context(Worker("transformers", options.model, log))
        ways: dict[Way, float] = {
            Ours(ours, folder): NO_TARGET,
            Offline(offline): 1.0,
            Completions(theirs, 1, 64): 1.5,
            Completions(theirs, 32, 4): 1.05,
            Generate(plain, 1, 20, threads=0): 18.0,
            Generate(plain, 8, 5, threads=0): 2.8,
            Generate(plain, 1, 20, threads=1): NO_TARGET,
            Generate(plain, 8, 5, threads=1): NO_TARGET,
        }
        for way in ways:
            speed(way, prompts, min(options.prompts, 256))  # warm
        speeds: dict[Way, list[float]] = {way: [] for way in ways}
        for turn in range(options.rounds):
            for way, each in speeds.items():
                each.append(speed(way, prompts, options.prompts))
                note(f"round {turn + 1}: {way.name}: {each[-1]:.1f} prompts/s")
    us, *others = (statistics.median(each) for each in speeds.values())
    return [
        at_least(f"throughput / {way.name}", us, other, "prompts/s", ways[way])
        for way, other in zip(list(ways)[1:], others, strict=True)
    ]


def latency(options: argparse.Namespace, folder: Path) -> list[Result]:
    """Seconds of single requests, ours and vLLM's in turn."""
    prompts = Prompts(options.model, DATA)
    parameters = {"max_tokens": TOKENS, "ignore_eos": True, "temperature": 0}
    with both_servers(options.model, folder) as (ours, theirs), httpx.Client(timeout=60) as http:

        def ask(server: Server) -> float:
            [prompt] = prompts.take(1)
            body = {"prompt": prompt, "parameters": parameters}
            path = "/generate"
            if server is theirs:
                path, body = "/v1/completions", body_of(prompts.rendered([prompt])[0])
            started = time.monotonic()
            http.post(server.url + path, json=body).raise_for_status()
            return time.monotonic() - started

        taken: dict[Server, list[float]] = {ours: [], theirs: []}
        for turn in range(WARM + options.requests):
            for server in (ours, theirs) if turn % 2 else (theirs, ours):
                taken[server].append(ask(server))
    us, them = (1000 * statistics.median(each[WARM:]) for each in taken.values())
    return [at_most("latency / vLLM's server", us, them, "ms")]


def start(options: argparse.Namespace, folder: Path) -> list[Result]:
    """Seconds until the servers answer, started in turn; the files are in the cache by then."""
    live, ready, theirs = [], [], []
    for turn in range(options.rounds + 1):
        with our_server(options.model, folder / "ours.log") as server:
            live.append(server.wait_until("/livez"))
            ready.append(server.wait_until("/readyz"))
        with vllm_server(options.model, folder / "vllm.log") as server:
            theirs.append(server.wait_until("/health"))
        note(
            f"round {turn}: /livez {live[-1]:.1f} s, ready {ready[-1]:.1f} s, vLLM's "
            f"{theirs[-1]:.1f} s" + (" (does not count)" if turn == 0 else "")
        )
    alive, us, them = (statistics.median(each[1:]) for each in (live, ready, theirs))
    name, target = "first /livez", f"<= {LIVE_WITHIN_S:g} s"
    ratio = alive / LIVE_WITHIN_S
    return [
        Result(name, alive, LIVE_WITHIN_S, "s", ratio, target, alive <= LIVE_WITHIN_S),
        at_most("time to ready / vLLM's server", us, them, "s"),
    ]


def defaults(options: argparse.Namespace, folder: Path) -> list[Result]:
    """Prompts a second of both servers, started with no flag but model and port."""
    return serve(options.model, options.prompts, options.rounds, folder)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.serving",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    parts = ["throughput", "latency", "start", "defaults"]
    add("--only", nargs="+", choices=parts, metavar="PART", help=f"of {', '.join(parts)}")
    add("--model", type=Path, help="model directory to serve instead of the random one")
    add("--prompts", type=int, default=800, help="prompts a round of each way (default: 800)")
    add("--requests", type=int, default=200, help="single requests to each server (default: 200)")
    add("--rounds", type=int, default=3, help="(default: 3)")
    add("--json", type=Path, help="write the results here too")
    return parser


if __name__ == "__main__":
    sys.exit(main())
