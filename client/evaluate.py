r"""Answer a dev set, score the answers and write the report, in one go.

    python client/evaluate.py --gold dev.json --url http://localhost:8000 --folder evaluation
    python client/evaluate.py --gold dev.json --serve "python -m service --model DIR --port {port}"
    python client/evaluate.py --gold dev.json --serve "python -m service --model {model} \
        --port {port}" --model DIR --against DIR-int8

Options that are not listed here go to predict_testset.py, such as --parameters and --api-key.
The folder gets predictions.json, scores.json and report.html, where they are needed gold_rows.json
and server.log; what --against answers goes to a folder in it. The same command goes on where it
stopped.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

if not __package__:  # run as a script, perhaps from a bare clone: find the package beside us
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from client.errors import InputError, ends_with_code
from client.pipes import run
from client.post_generate_process import CONVERTERS
from client.predict_testset import count, heed_signals, interrupt_notice, parse_job, report_missing
from client.prediction.job import Job, predict
from client.prediction.serving import served
from client.promptcblue.gold import read_gold, read_predictions
from client.report import report
from client.rows import read_rows, refuse_overwriting, write_rows
from client.score import print_scores, write_scores

NOT_HERE = {
    "--output": "all goes to --folder",
    "--input": "the rows are those of --gold",
    "--shard": "score the merged shards (merge_shards.py, then score.py and report.py)",
}


@dataclass(frozen=True)
class Serving:
    """The command of a server to run as long as it is asked, in place of a job's URLs.

    `model` stands for `{model}` in it, and so does in turn `against`, the directory of another
    model that is to answer the same rows. Raises InputError where command and models do not fit.
    """

    command: str
    model: str = ""
    against: Path | None = None

    def __post_init__(self) -> None:
        self._refuse_half_a_command()
        self._refuse_missing_folder()

    def _refuse_half_a_command(self) -> None:
        if ("{model}" in self.command) != bool(self.model):
            raise InputError("--model is what {model} stands for in --serve: give both or none")
        if self.against and not self.model:
            raise InputError("--against needs --model, and {model} in the command of --serve")

    def _refuse_missing_folder(self) -> None:
        if self.against and not (self.against / "config.json").is_file():
            raise InputError(
                f"--against {self.against}: no model directory is there (it has no config.json). "
                "python -m training.quantize writes the quantised form of one"
            )


def evaluate(
    job: Job,
    *,
    serving: Serving | None = None,
    compare: Path | None = None,
    converter: str = "head",
) -> int:
    """Answer `job.input`, score the answers and report them; all goes to `job.output`'s folder.

    Of two models, the second's scores come with their differences to the first's. SIGINT must be
    heeded (`heed_signals`). Returns 1 where rows have no answer, after printing which: then nothing
    is scored. Raises ClientError.
    """
    gold = read_gold(_part(job))  # what scoring would refuse is refused before hours of answering
    compared = [read_predictions(compare, gold)] if compare else []
    made = []
    for each, model in _runs(job, serving):
        if missing := _answer(each, serving, model):
            return report_missing(missing, each)
        made.append(read_predictions(each.output, gold))
    page, scores = (job.output.with_name(name) for name in ("report.html", "scores.json"))
    results = report(gold, [*made, *compared], page, converter=converter)
    write_scores(scores, results)
    print_scores(results)
    print(f"\n{page}, {scores}")
    return 0


def _runs(job: Job, serving: Serving | None) -> Iterator[tuple[Job, str]]:
    """The job of each model, told as it begins."""
    if not serving or not serving.against:
        yield job, serving.model if serving else ""
        return
    print(f"model 1 of 2: {serving.model}", flush=True)
    yield job, serving.model
    print(f"model 2 of 2: {serving.against}", flush=True)
    folder = job.output.parent / f"against-{serving.against.resolve().name}"
    _make(folder)
    yield replace(job, output=folder / job.output.name, csv=None), str(serving.against)


def _answer(job: Job, serving: Serving | None, model: str) -> Mapping[str, str]:
    """Ask for the rows; the reasons of those that have no answer."""
    if not serving:
        with interrupt_notice():
            return predict(job)
    log = job.output.with_name("server.log")
    with served(serving.command, log, model) as urls, interrupt_notice():
        return predict(replace(job, urls=urls, waits=True))


def _part(job: Job) -> Path:
    """The rows to answer: the gold file, or a file of its own for a part of it."""
    rows = read_rows(job.input, "input", "target").rows
    chosen = job.selection.indices(rows)
    folder = job.output.parent
    _make(folder)
    if len(chosen) == len(rows):
        return job.input
    part = folder / "gold_rows.json"
    refuse_overwriting(part, job.input)
    write_rows(part, [rows[index] for index in chosen])
    return part


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise InputError(f"cannot write {folder}: {problem.strerror}") from problem


@ends_with_code
def main(arguments: Sequence[str] | None = None) -> int:
    """Evaluate; the exit codes are those of predict_testset, 2 also where files do not fit."""
    options, passed = _parser().parse_known_args(arguments)
    _refuse_others_options(passed)
    predicted = parse_job(passed)
    job = replace(
        predicted,
        urls=tuple(options.url),
        input=options.gold,
        output=options.folder / "predictions.json",
        selection=replace(predicted.selection, tasks=tuple(options.tasks), limit=options.limit),
    )
    heed_signals()
    serving = _serving(options)
    return evaluate(job, serving=serving, compare=options.compare, converter=options.converter)


def _serving(options: argparse.Namespace) -> Serving | None:
    if options.serve:
        return Serving(options.serve, options.model, options.against)
    if options.model or options.against:
        raise InputError("--model and --against need --serve, the command that serves each")
    return None


def _refuse_others_options(passed: Sequence[str]) -> None:
    for name in (word.partition("=")[0] for word in passed):
        if name in NOT_HERE:
            raise InputError(f"{name} is no option of evaluate: {NOT_HERE[name]}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="evaluate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--gold", type=Path, required=True, help="dev.json with its targets")
    add("--folder", type=Path, default=Path("evaluation"), help="for what is made (%(default)s)")
    where = parser.add_mutually_exclusive_group().add_argument
    where("--url", nargs="+", default=["http://localhost:8000"], help="where the servers listen")
    where("--serve", metavar="COMMAND", help="start this server first, and stop it in the end")
    add("--model", metavar="DIR", default="", help="stands for {model} in --serve's command")
    add("--tasks", nargs="+", default=(), metavar="TASK", help="only these values of task_dataset")
    add("--limit", type=count, default=None, help="only the first rows of those")
    other = parser.add_mutually_exclusive_group().add_argument
    other("--compare", type=Path, help="another model's predictions for the same rows")
    other("--against", type=Path, metavar="DIR", help="another model to serve after it and compare")
    add("--converter", choices=CONVERTERS, default="head", help="the official reading")
    return parser


def command() -> NoReturn:
    """`mergeline-evaluate`, and this file as a script."""
    run(main)


if __name__ == "__main__":
    command()
