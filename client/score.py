"""Score predictions for a dev set as PromptCBLUE does, task by task, with intervals.

python client/score.py --gold dev.json --predictions base.json --compare tuned.json
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if not __package__:  # run as a script, perhaps from a bare clone: find the package beside us
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from client.errors import ClientError
from client.pipes import run
from client.post_generate_process import CONVERTERS
from client.promptcblue.bootstrap import LEVEL, RESAMPLES
from client.promptcblue.scores import label_of_mean, score
from client.rows import refuse_overwriting, written_aside


def table(results: Sequence[dict[str, Any]]) -> str:
    """One line a task, in percent; for each file the score and its interval."""
    first = results[0]["tasks"]
    lines = [
        _line(name, first[name]["metric"], first[name]["rows"], [r["tasks"][name] for r in results])
        for name in sorted(first)
    ]
    rows = sum(task["rows"] for task in first.values())
    overall = [result | {"score": result["overall"]} for result in results]
    return "\n".join([*lines, _line(label_of_mean(results[0]), "", rows, overall)])


def format_costs(result: dict[str, Any]) -> str:
    """What a lenient reading finds beyond the official one, and in how many rows, by cause."""
    lines = [
        f"{name:<14}{place['lenient']:>8.2%} instead of {score:>7.2%}: "
        + ", ".join(f"{cause} {count}" for cause, count in place["failures"].items())
        for name, place, score in [
            *((name, each, each["score"]) for name, each in sorted(result["tasks"].items())),
            ("overall", result, result["overall"]),
        ]
        if place["failures"]
    ]
    title = f"what the format cost {result['predictions']} (a lenient reading, not the score):"
    return "\n".join([title, *(lines or ["nothing"])])


def _line(label: str, metric: str, rows: int, scores: Sequence[dict[str, Any]]) -> str:
    columns = [f"{label:<14}{metric:<12}{rows:>6} rows"]
    for each in scores:
        low, high = each["interval"]
        columns.append(f"{each['score']:>8.2%} [{low:>6.1%}, {high:>6.1%}]")
        if "difference" in each:
            low, high = each["difference"]["interval"]
            columns.append(f"{each['difference']['score']:>+8.2%} [{low:>+6.1%}, {high:>+6.1%}]")
    return "  ".join(columns)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table, perhaps write the JSON; 2 when the files do not fit."""
    options = _parser().parse_args(arguments)
    paths = [path for path in (options.predictions, options.compare) if path]
    try:
        results = score(options.gold, paths, converter=options.converter, seed=options.seed)
        if options.json:
            refuse_overwriting(options.json, options.gold, *paths)
            write_scores(options.json, results)
    except ClientError as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 2
    print_scores(results)
    return 0


def print_scores(results: Sequence[dict[str, Any]]) -> None:
    """The table, and below it what the format cost."""
    first = results[0]
    names = " | ".join(each["predictions"] for each in results)
    print(f"PromptCBLUE's metrics, converter {first['converter']}: {names}")
    print(f"in brackets {LEVEL:.0%} intervals of {RESAMPLES} resamples, seed {first['seed']}")
    print(table(results))
    for result in results:
        print(f"\n{format_costs(result)}")


def write_scores(path: Path, results: Sequence[dict[str, Any]]) -> None:
    """One JSON object: the first file's scores, those of the second under `compare`."""
    content = results[0] if len(results) == 1 else {**results[0], "compare": results[1]}
    text = json.dumps(content, ensure_ascii=False, indent=2) + "\n"
    with written_aside(path) as aside:
        aside.write_text(text, encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="score", description=str(__doc__).partition("\n")[0])
    add = parser.add_argument
    add("--gold", type=Path, required=True, help="dev.json with its targets, or structured")
    add("--predictions", type=Path, required=True, help="the same rows with a model's targets")
    add("--compare", type=Path, help="another model's predictions: its scores and the difference")
    add("--converter", choices=CONVERTERS, default="head", help="the official reading of texts")
    add("--seed", type=int, default=0, help="of the intervals' draws (default: %(default)s)")
    add("--json", type=Path, metavar="FILE", help="write the scores there, in full precision")
    return parser


if __name__ == "__main__":
    run(main)
