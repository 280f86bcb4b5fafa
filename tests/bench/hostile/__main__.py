"""What a bystander's request costs while one other person sends the worst.

    python -m tests.bench.hostile [--only NAME …] [--requests 200] [--json FILE]

A server of the demo with its defaults. One client asks for 8 tokens again and again; beside it a
process of low priority sends one kind of hostile traffic without a pause. Told is the bystander's
99th percentile, as a ratio to the same with nobody beside it, measured before and after each
kind. Exit code 1 when it is more than 3 times as much, or the server is not ready at the end.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import httpx

from tests.bench.hostile.kinds import Attack, attacked, kinds
from tests.bench.report import Result, at_most, note, report
from tests.paths import DEMO
from tests.server import ServerProcess, serving

MOST = 3.0
MODEL = "demo"
BODY = {"prompt": "这句搜索想问的是哪一类？", "parameters": {"max_tokens": 8, "ignore_eos": True}}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure each kind; 0 when none costs a bystander too much."""
    options = _parser().parse_args(arguments)
    chosen = {
        name: attack
        for name, attack in kinds(MODEL).items()
        if not options.only or any(part in name for part in options.only)
    }
    with tempfile.TemporaryDirectory() as scratch:
        log = Path(scratch) / "server.log"
        settings = {"served_name": MODEL, "dtype": "auto"}
        with serving(DEMO / "model", log, **settings) as server, httpx.Client(timeout=120) as http:
            _latencies(server, http, options.requests)  # warm
            results = [
                _beside(server, http, name, attack, options.requests)
                for name, attack in chosen.items()
            ]
            ready = http.get(server.url + "/readyz").status_code == 200
    print("the server is ready" if ready else "THE SERVER IS NOT READY ANY MORE")
    return report(results, options.json) or int(not ready)


def _beside(
    server: ServerProcess, http: httpx.Client, name: str, attack: Attack, requests: int
) -> Result:
    quiet = _latencies(server, http, requests)
    with attacked(server.port, [attack]):
        beside = _latencies(server, http, requests)
    quiet += _latencies(server, http, requests)
    result = at_most(name, _p99(beside), _p99(quiet), "ms", MOST)
    note(f"{name}: {result.ours:.0f} ms beside it, {result.other:.0f} ms alone")
    return result


def _latencies(server: ServerProcess, http: httpx.Client, requests: int) -> list[float]:
    """Milliseconds of so many requests, one after the other."""
    each = []
    for _ in range(requests):
        began = time.perf_counter()
        http.post(server.url + "/generate", json=BODY).raise_for_status()
        each.append((time.perf_counter() - began) * 1000)
    return each


def _p99(milliseconds: list[float]) -> float:
    return statistics.quantiles(milliseconds, n=100)[98]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.hostile",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", nargs="+", default=[], help="parts of the names of kinds")
    parser.add_argument("--requests", type=int, default=200, help="of the bystander, each time")
    parser.add_argument("--json", type=Path, help="write the results there, too")
    return parser


if __name__ == "__main__":
    sys.exit(main())
