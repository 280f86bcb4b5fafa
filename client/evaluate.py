"""Answer a dev set, score the answers and write the report, in one go.

    python client/evaluate.py --gold dev.json --url http://localhost:8000 --folder evaluation
    python client/evaluate.py --gold dev.json --serve "python -m service --model DIR --port {port}"

Options that are not listed here go to predict_testset.py, such as --parameters and --api-key.
The folder gets predictions.json, scores.json and report.html. The same command goes on where it
stopped.
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
from contextlib import contextmanager
from pathlib import Path

if not __package__:  # run as a script, perhaps from a bare clone: find the package beside us
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from client import predict_testset, report, score
from client.errors import ClientError, InputError
from client.post_generate_process import CONVERTERS
from client.rows import read_rows, write_rows
from client.selection import Selection

LOG_SHOWN = 2000  # characters of a server's log
STOPS_WITHIN_S = 60.0


def evaluate(options: argparse.Namespace, passed: Sequence[str]) -> int:
    """Predict, score, report; the first exit code that is not 0 ends it.

    Raises InputError where the gold file or the folder does not do.
    """
    folder: Path = options.folder
    gold = _gold(options)
    predictions = folder / "predictions.json"
    chosen = ["--tasks", *options.tasks] if options.tasks else []
    chosen += ["--limit", str(options.limit)] if options.limit else []
    asked = ["--input", str(options.gold), "--output", str(predictions), *chosen]
    if options.serve:
        with _serving(options.serve, folder / "server.log") as url:
            code = predict_testset.main([*passed, *asked, "--url", url])
    else:
        code = predict_testset.main([*passed, *asked, "--url", *options.url])
    if code:
        return code
    files = ["--gold", str(gold), "--predictions", str(predictions)]
    files += ["--compare", str(options.compare)] if options.compare else []
    files += ["--converter", options.converter]
    return score.main([*files, "--json", str(folder / "scores.json")]) or report.main(
        [*files, "--output", str(folder / "report.html")]
    )


def _gold(options: argparse.Namespace) -> Path:
    """The gold file, or those rows of it that are asked for, in a file of their own."""
    rows = read_rows(options.gold, "input", "target").rows
    chosen = Selection(tuple(options.tasks), limit=options.limit).indices(rows)
    try:
        options.folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise InputError(f"cannot write {options.folder}: {problem.strerror}") from problem
    if len(chosen) == len(rows):
        path: Path = options.gold
        return path
    part: Path = options.folder / "gold.json"
    write_rows(part, [rows[index] for index in chosen])
    return part


@contextmanager
def _serving(command: str, log: Path) -> Iterator[str]:
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
    watcher.start()
    try:
        yield f"http://127.0.0.1:{port}"
    except KeyboardInterrupt:
        if not ended:
            raise
    finally:
        stopping.set()
        server.terminate()
        watcher.join(STOPS_WITHIN_S)
        server.kill()
    if ended:
        tail = log.read_text("utf-8", "replace")[-LOG_SHOWN:]
        raise InputError(f"the server ended with exit code {ended[0]}; its log says:\n{tail}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Evaluate; the exit codes are those of predict_testset, 2 also where files do not fit."""
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
    add("--limit", type=predict_testset.count, default=None, help="only the first rows of those")
    add("--compare", type=Path, help="another model's predictions for the same rows")
    add("--converter", choices=CONVERTERS, default="head", help="the official reading")
    options, passed = parser.parse_known_args(arguments)
    try:
        return evaluate(options, passed)
    except ClientError as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
