"""One HTML file that shows what a model's predictions score, and where they go wrong.

    python client/report.py --gold dev.json --predictions dev_predictions.json --output report.html

It needs nothing beside it: no network, no script. A journal beside the predictions adds latencies.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

if not __package__:  # run as a script, perhaps from a bare clone: find the package beside us
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from client.errors import ends_with_code
from client.pipes import run
from client.post_generate_process import CONVERTERS
from client.prediction.job import journal_of
from client.prediction.journal import Entry, read_answers, read_header
from client.promptcblue.analysis import analysed
from client.promptcblue.gold import Answers, Gold, Predictions, read_files
from client.promptcblue.scores import Scores
from client.promptcblue.scoring import score
from client.report_page.markup import Node, document, element
from client.report_page.scores import scores_section
from client.report_page.tasks import answers_section, task_section
from client.rows import refuse_overwriting, written_aside

STYLE = Path(__file__).with_name("report_page") / "report.css"


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
    samples = analysed(gold.answers, first.rows, converter)
    texts = gold.targets or _as_json(gold.answers)
    model, entries = _journaled(first)
    name = model or first.path.name

    def body() -> Iterator[Node]:
        yield element("h1", f"{name}: {results[0].overall.value:.2%}")
        facts = [f"gold {gold.path}", f"predictions {first.path}", f"converter {converter}"]
        yield element("p", " · ".join(facts), class_="quiet")
        yield from scores_section(results)
        yield from answers_section(samples, gold.targets, entries)
        yield element("h2", "Task by task")
        for task in sorted(samples):
            yield task_section(task, results[0].tasks[task], samples[task], texts)

    title = f"{name} on {gold.path.name}"
    with written_aside(output) as aside, aside.open("w", encoding="utf-8") as file:
        file.writelines(document(title, STYLE.read_text("utf-8"), body()))
    return results


def _as_json(gold: Answers) -> dict[str, str]:
    """What stands for the targets of a structured file."""
    return {
        name: answer
        if isinstance(answer, str)
        else json.dumps(answer, ensure_ascii=False, indent=1)
        for answers in gold.values()
        for name, answer in answers.items()
    }


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


if __name__ == "__main__":
    run(main)
