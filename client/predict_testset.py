"""Fill the `target` of every row of a test set with the answer of a served model.

    python client/predict_testset.py --url http://localhost:8000 --parameters '{"max_tokens": 64}'

Finished rows are journaled at once: after a crash the same command goes on where it stopped.
"""

import argparse
import os
import re
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

if not __package__:  # run as a script, perhaps from a bare clone: find the package beside us
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from client.errors import ends_with_code
from client.pipes import run
from client.prediction.adapters import AdapterBy
from client.prediction.job import DEMO_INPUT, Job, predict
from client.prediction.parameters import read_parameters
from client.prediction.selection import Selection
from client.prediction.window import Pace


@ends_with_code
def main(arguments: Sequence[str] | None = None) -> int:
    """Run one job; 0: complete, 1: rows are missing, 2: cannot go on so, 130: interrupted."""
    heed_signals()
    with interrupt_notice():
        job = parse_job(arguments)
        missing = predict(job)
    return report_missing(missing, job)


def heed_signals() -> None:
    """End the run by SIGINT and SIGTERM alike."""
    # A shell starts background jobs with SIGINT ignored; an interrupt is harmless here, so heed it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # `docker stop` then ends the run as Ctrl-C does.
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))


@contextmanager
def interrupt_notice() -> Iterator[None]:
    """Say what an interrupt leaves, before it goes its way."""
    try:
        yield
    except KeyboardInterrupt:
        print(
            "interrupted: the finished rows are kept; the same command goes on from there",
            file=sys.stderr,
        )
        raise


def report_missing(missing: Mapping[str, str], job: Job) -> int:
    """Print the rows that have no answer, by reason; the exit code that says whether there are."""
    if not missing:
        return 0
    names: dict[str, list[str]] = {}
    for name, reason in missing.items():
        names.setdefault(reason, []).append(name)
    print(f"error: {len(missing)} rows have no answer:", file=sys.stderr)
    for reason, group in names.items():
        print(f"  {reason}: {', '.join(group)}", file=sys.stderr)
    print(
        f"{job.output} was not written. The finished rows are in {job.journal}: "
        "the same command asks for the missing ones alone",
        file=sys.stderr,
    )
    return 1


def parse_job(arguments: Sequence[str] | None = None) -> Job:
    """The job that a command line describes, by default this program's.

    Raises InputError; SystemExit with argparse's message where the usage is wrong.
    """
    options = _parser().parse_args(arguments)
    return Job(
        urls=tuple(options.url),
        input=options.input,
        prompt_column=options.prompt_column,
        csv=options.csv,
        output=options.output,
        parameters=read_parameters(options.parameters, options.adapter),
        pace=Pace(options.batch_size, options.connections, options.model_wait, options.latency),
        timeout=options.timeout,
        api_key=getattr(options, "api_key", os.environ.get("MERGELINE_API_KEY")),
        restart=options.restart,
        retry_empty=options.retry_empty,
        adapter_by=AdapterBy.parse(options.adapter_by) if options.adapter_by else None,
        selection=Selection(tuple(options.tasks), options.shard, options.limit),
    )


def _parser() -> argparse.ArgumentParser:
    pace = Pace()
    parser = argparse.ArgumentParser(
        prog="predict_testset",
        description=(__doc__ or "").split("\n", maxsplit=1)[0],
        epilog="exit codes: 0 complete, 1 rows missing, 2 bad input or usage, 130 interrupted",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--url", nargs="+", default=["http://localhost:8000"], help="where the servers listen")
    add("--input", type=Path, default=DEMO_INPUT, help="JSON lines, one object a line")
    add("--prompt-column", metavar="FIELD", default=Job.prompt_column, help="the field to ask")
    add("--output", type=Path, default=Job.output, help="the same rows with `target` filled")
    add("--csv", type=Path, default=None, metavar="FILE", help="write them as a table, too")
    add("--parameters", default="{}", metavar="JSON|FILE",
        help="of every request: an object, or a file of JSON or YAML")  # fmt: skip
    one = parser.add_mutually_exclusive_group().add_argument
    one("--adapter", metavar="NAME", default=None, help="which adapter the server applies")
    one("--adapter-by", metavar="FIELD=RULES", default=None, help="one by task: task_dataset=ad-{}")
    add("--batch-size", type=count, default=pace.batch_size, help="prompts a request")
    add("--connections", type=count, default=pace.connections, help="requests at a time")
    add("--latency", type=seconds, default=pace.latency,
        help="ask less at a time while lists take longer (s)")  # fmt: skip
    add("--timeout", type=seconds, default=Job.timeout, help="longest silence of an answer (s)")
    add("--model-wait", type=seconds, default=pace.model_wait, help="wait for the server (s)")
    add("--tasks", nargs="+", default=(), metavar="TASK", help="only these values of task_dataset")
    add("--shard", type=_shard, default="0/1", metavar="I/N",
        help="only rows I, I+N, …; then merge_shards.py")  # fmt: skip
    add("--limit", type=count, default=None, help="only the first rows of those")
    add("--restart", action="store_true", help="drop the answers of an earlier run")
    add("--retry-empty", action="store_true", help="ask again for rows answered with nothing")
    add("--api-key", default=argparse.SUPPRESS, help="(default: $MERGELINE_API_KEY)")
    return parser


def count(text: str) -> int:
    """A whole number from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number from 1")
    return int(text)


def _shard(text: str) -> tuple[int, int]:
    numbers = re.fullmatch(r"(\d+)/(\d+)", text)
    first, count = map(int, numbers.groups()) if numbers else (0, 0)
    if first >= count:
        raise argparse.ArgumentTypeError(f"{text!r}: expected I/N, I from 0 to N - 1")
    return first, count


def seconds(text: str) -> float:
    """A number from 0."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number of seconds")
    return number


def command() -> NoReturn:
    """`mergeline-predict`, and this file as a script."""
    run(main)


if __name__ == "__main__":
    command()
