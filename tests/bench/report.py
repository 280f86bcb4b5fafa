"""The lines that the benchmarks print: two figures, their ratio, a target."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

NO_TARGET = 0.0


@dataclass(frozen=True)
class Result:
    """One line of the report."""

    what: str
    ours: float
    other: float
    unit: str
    ratio: float
    target: str
    reached: bool


def at_least(what: str, us: float, them: float, unit: str, target: float = NO_TARGET) -> Result:
    """Of a speed: more is better."""
    ratio = us / them
    return Result(
        what, us, them, unit, ratio, f">= {target:g} x" if target else "-", ratio >= target
    )


def at_most(what: str, us: float, them: float, unit: str, target: float = 1.05) -> Result:
    """Of a time: less is better."""
    ratio = us / them
    wanted, reached = (f"<= {target:g} x", ratio <= target) if target else ("-", True)
    return Result(what, us, them, unit, ratio, wanted, reached)


def note(text: str) -> None:
    """Progress, beside the results."""
    print(text, file=sys.stderr, flush=True)


def report(results: Sequence[Result], path: Path | None) -> int:
    """Print `results`, and write them to `path` as JSON; the exit code: 1 when one is missed."""
    for result in results:
        numbers = f"{result.ours:7.1f} / {result.other:6.1f} {result.unit:9}"
        verdict = "pass" if result.reached else "MISSED"
        print(f"{result.what:66} {numbers} {result.ratio:6.2f} x   {result.target:9} {verdict}")
    if path:
        path.write_text(json.dumps([asdict(result) for result in results], indent=2) + "\n")
    return int(not all(result.reached for result in results))
