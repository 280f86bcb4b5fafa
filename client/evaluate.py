"""Answer a dev set, score the answers and write the report, in one go.

    python client/evaluate.py --gold dev.json --url http://localhost:8000 --folder evaluation
    python client/evaluate.py --gold dev.json --serve "python -m service --model DIR --port {port}"

Options that are not listed here go to predict_testset.py, such as --parameters and --api-key.
The folder gets predictions.json, scores.json and report.html, where they are needed gold_rows.json
and server.log. The same command goes on where it stopped.
"""

import argparse
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

if not __package__:  # run as a script, perhaps from a bare clone: find the package beside us
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from client.errors import ClientError, InputError, ends_with_code
from client.pipes import run
from client.post_generate_process import CONVERTERS
from client.predict_testset import count, heed_signals, interrupt_notice, parse_job, report_missing
from client.prediction.job import Job, predict
from client.promptcblue.gold import read_gold, read_predictions
from client.report import report
from client.rows import read_rows, refuse_overwriting, write_rows
from client.score import print_scores, write_scores

LOG_SHOWN = 2000  # characters of a server's log
STOPS_WITHIN_S = 60.0
NOT_HERE = {
    "--output": "all goes to --folder",
    "--input": "the rows are those of --gold",
    "--shard": "score the merged shards (merge_shards.py, then score.py and report.py)",
}


def evaluate(
    job: Job, *, serve: str | None = None, compare: Path | None = None, converter: str = "head"
) -> dict[str, str]:
    """Answer `job.input`, score the answers and report them; all goes to `job.output`'s folder.

    `serve` is the command of a server to run as long, in place of `job.urls`; should it end, an
    interrupt stops the run, so that SIGINT must be heeded (`heed_signals`). Returns the missing
    rows' reasons, as `predict` does: then nothing is scored. Raises ClientError.
    """
    folder = job.output.parent
    gold = read_gold(_part(job))  # what scoring would refuse is refused before hours of answering
    compared = [read_predictions(compare, gold)] if compare else []
    serving = _serving(serve, folder / "server.log") if serve else nullcontext(job.urls)
    with serving as urls, interrupt_notice():
        missing = predict(replace(job, urls=urls))
    if not missing:
        page, scores = folder / "report.html", folder / "scores.json"
        predictions = [read_predictions(job.output, gold), *compared]
        results = report(gold, predictions, page, converter=converter)
        write_scores(scores, results)
        print_scores(results)
        print(f"\n{page}, {scores}")
    return missing


def _part(job: Job) -> Path:
    """The rows to answer: the gold file, or a file of its own for a part of it."""
    rows = read_rows(job.input, "input", "target").rows
    chosen = job.selection.indices(rows)
    folder = job.output.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise InputError(f"cannot write {folder}: {problem.strerror}") from problem
    if len(chosen) == len(rows):
        return job.input
    part = folder / "gold_rows.json"
    refuse_overwriting(part, job.input)
    write_rows(part, [rows[index] for index in chosen])
    return part


@contextmanager
def _serving(command: str, log: Path) -> Iterator[tuple[str, ...]]:
    """The URL of a server that runs as long. Raises InputError when it ends before we do."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [word.replace("{port}", str(port)) for word in shlex.split(command)]
    print(f"serving: {shlex.join(words)} (its log: {log})")
    try:
        with log.open("wb") as file:
            # in a group of its own: Ctrl-C is for us, who then stop it
            server = subprocess.Popen(words, stdout=file, stderr=subprocess.STDOUT, process_group=0)
    except OSError as problem:
        raise InputError(f"cannot start {words[0]}: {problem.strerror}") from problem
    stopping, ended = threading.Event(), list[int]()

    def watch() -> None:
        code = server.wait()
        if not stopping.is_set():
            ended.append(code)
            os.kill(os.getpid(), signal.SIGINT)  # wherever the run is: it could wait for long

    watcher = threading.Thread(target=watch)
    try:
        watcher.start()
        yield (f"http://127.0.0.1:{port}",)
    except (KeyboardInterrupt, ClientError):
        if not ended:  # else its log says more
            raise
    finally:
        stopping.set()
        _signal(server, signal.SIGTERM)
        watcher.join(STOPS_WITHIN_S)
        _signal(server, signal.SIGKILL)  # what a shell has left running
    if ended:
        tail = log.read_text("utf-8", "replace")[-LOG_SHOWN:]
        raise InputError(f"the server ended with exit code {ended[0]}; its log says:\n{tail}")


def _signal(server: "subprocess.Popen[bytes]", number: signal.Signals) -> None:
    """To the server and all that it has started."""
    with suppress(ProcessLookupError):
        os.killpg(server.pid, number)


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
    missing = evaluate(
        job, serve=options.serve, compare=options.compare, converter=options.converter
    )
    return report_missing(missing, job)


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
    add("--tasks", nargs="+", default=(), metavar="TASK", help="only these values of task_dataset")
    add("--limit", type=count, default=None, help="only the first rows of those")
    add("--compare", type=Path, help="another model's predictions for the same rows")
    add("--converter", choices=CONVERTERS, default="head", help="the official reading")
    return parser


def command() -> NoReturn:
    """`mergeline-evaluate`, and this file as a script."""
    run(main)


if __name__ == "__main__":
    command()
