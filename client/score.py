"""Score predictions for a dev set as PromptCBLUE does, task by task, with intervals.

python client/score.py --gold dev.json --predictions base.json --compare tuned.json
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

if not __package__:  # run as a script, perhaps from a bare clone: find the package beside us
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from client.errors import ends_with_code
from client.pipes import run
from client.post_generate_process import CONVERTERS
from client.promptcblue.bootstrap import LEVEL, RESAMPLES
from client.promptcblue.gold import read_files
from client.promptcblue.scores import Score, Scores
from client.promptcblue.scoring import score
from client.rows import refuse_overwriting, written_aside


def table(results: Sequence[Scores]) -> str:
    """One line a task, in percent; for each file the score and its interval."""
    first = results[0]
    lines = [
        _line(name, task.metric, task.rows, [each.tasks[name].score for each in results])
        for name, task in sorted(first.tasks.items())
    ]
    overall = _line(first.label, "", first.rows, [each.overall for each in results])
    return "\n".join([*lines, overall])


def format_costs(result: Scores) -> str:
    """What a lenient reading finds beyond the official one, and in how many rows, by cause."""
    scores = [(name, task.score) for name, task in sorted(result.tasks.items())]
    scores.append(("overall", result.overall))
    lines = [_format_cost(name, each) for name, each in scores if each.failures]
    title = f"what the format cost {result.predictions} (a lenient reading, not the score):"
    return "\n".join([title, *(lines or ["nothing"])])


def verdict(result: Scores) -> str:
    """What the differences to the first file come to, in words."""
    same = result.same_texts or 0
    steps = result.differences
    mean = steps.pop(result.label)
    told = [f"{name} {step.value:+.2%}" for name, step in steps.items() if step.is_told_from_zero]
    return "\n".join([
        f"{result.predictions} against the first:",
        f"{same} of {result.rows} answers ({same / result.rows:.1%}) are the same text",
        f"{result.label}: {mean.value:+.2%} {mean.interval.text('+.1%')}, {mean.words}",
        f"tasks with a difference distinguishable from zero: {', '.join(told) or 'none'}",
    ])  # fmt: skip


def _format_cost(label: str, score: Score) -> str:
    causes = ", ".join(f"{cause} {count}" for cause, count in score.failures.items())
    return f"{label:<14}{score.lenient:>8.2%} instead of {score.value:>7.2%}: {causes}"


def _line(label: str, metric: str, rows: int, scores: Sequence[Score]) -> str:
    columns = [f"{label:<14}{metric:<12}{rows:>6} rows"]
    for each in scores:
        columns.append(f"{each.value:>8.2%} {each.interval.text('>6.1%')}")
        if step := each.difference:
            columns.append(f"{step.value:>+8.2%} {step.interval.text('>+6.1%')}")
    return "  ".join(columns)


@ends_with_code
def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table, perhaps write the JSON; 2 when the files do not fit."""
    options = _parser().parse_args(arguments)
    paths = [path for path in (options.predictions, options.compare) if path]
    gold, predictions = read_files(options.gold, paths)
    results = score(gold, predictions, converter=options.converter, seed=options.seed)
    if options.json:
        refuse_overwriting(options.json, options.gold, *paths)
        write_scores(options.json, results)
    print_scores(results)
    return 0


def print_scores(results: Sequence[Scores]) -> None:
    """The table, and below it what the format cost."""
    first = results[0]
    names = " | ".join(each.predictions for each in results)
    print(f"PromptCBLUE's metrics, converter {first.converter}: {names}")
    print(f"in brackets {LEVEL:.0%} intervals of {RESAMPLES} resamples, seed {first.seed}")
    print(table(results))
    for result in results:
        print(f"\n{format_costs(result)}")
    for result in results[1:]:
        print(f"\n{verdict(result)}")


def write_scores(path: Path, results: Sequence[Scores]) -> None:
    """One JSON object: the first file's scores, those of the second under `compare`."""
    content = results[0].as_json()
    if results[1:]:
        content["compare"] = results[1].as_json()
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


def command() -> NoReturn:
    """`mergeline-score`, and this file as a script."""
    run(main)


if __name__ == "__main__":
    command()
