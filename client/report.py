"""One HTML file that shows what a model's predictions score, and where they go wrong.

    python client/report.py --gold dev.json --predictions dev_predictions.json --output report.html

It needs nothing beside it: no network, no script. A journal beside the predictions adds latencies.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

if not __package__:  # run as a script, perhaps from a bare clone: find the package beside us
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from client.errors import ends_with_code
from client.pipes import run
from client.post_generate_process import CONVERTERS
from client.prediction.job import journal_of
from client.prediction.journal import Entry, read_answers, read_header
from client.promptcblue.gold import Gold, Predictions, read_files
from client.promptcblue.scores import Scores
from client.promptcblue.scoring import score
from client.report_page.page import page
from client.rows import refuse_overwriting, written_aside


def report(
    gold: Gold,
    predictions: Sequence[Predictions],
    output: Path,
    *,
    converter: str = "head",
    seed: int = 0,
) -> list[Scores]:
    """Write the page; return the scores that it shows.

    The tasks' details are of the first predictions; of a second there are scores and differences.
    Raises InputError where it cannot be written.
    """
    refuse_overwriting(output, gold.path, *(each.path for each in predictions))
    results = score(gold, predictions, converter=converter, seed=seed)
    first = predictions[0]
    model, entries = _journaled(first)
    pieces = page(model or first.path.name, gold, first, results, entries)
    with written_aside(output) as aside, aside.open("w", encoding="utf-8") as file:
        file.writelines(pieces)
    return results


def _journaled(predictions: Predictions) -> tuple[str | None, list[Entry]]:
    """Who answered these very rows, and what the journal beside the file says of each."""
    targets = predictions.targets
    journal = journal_of(predictions.path)
    entries = [
        entry
        for entry in read_answers(journal)
        if targets.get(entry.get("sample_id", "")) == entry["generated_text"].strip()
    ]
    header = read_header(journal) if entries else None
    return header["model"] if header else None, entries


@ends_with_code
def main(arguments: Sequence[str] | None = None) -> int:
    """Write one report; 2 when the files do not fit."""
    parser = argparse.ArgumentParser(prog="report", description=str(__doc__).partition("\n")[0])
    add = parser.add_argument
    add("--gold", type=Path, required=True, help="dev.json with its targets, or structured")
    add("--predictions", type=Path, required=True, help="the same rows with a model's targets")
    add("--compare", type=Path, help="another model's predictions: its scores and the difference")
    add("--output", type=Path, default=Path("report.html"), help="default: %(default)s")
    add("--converter", choices=CONVERTERS, default="head", help="the official reading of texts")
    add("--seed", type=int, default=0, help="of the intervals' draws (default: %(default)s)")
    options = parser.parse_args(arguments)
    paths = [path for path in (options.predictions, options.compare) if path]
    gold, predictions = read_files(options.gold, paths)
    results = report(
        gold, predictions, options.output, converter=options.converter, seed=options.seed
    )
    shown = " → ".join(f"{each.overall.value:.2%}" for each in results)
    print(f"{options.output}: {shown}, {len(results[0].tasks)} tasks")
    return 0


def command() -> NoReturn:
    """`mergeline-report`, and this file as a script."""
    run(main)


if __name__ == "__main__":
    command()
