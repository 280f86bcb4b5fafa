"""The program as its user starts it: a process of its own, against a real socket."""

import json
import os
import pty
import random
import shutil
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.client.conftest import read_output, rows, write_input
from tests.client.stub import Refusal, Stub, answer_to, failure

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "client" / "predict_testset.py"

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path, stub: Stub) -> Start:
    """Start the program on 200 rows; more options can be given."""
    write_input(tmp_path / "test.json", 200)

    def begin(*options: str, output: str = "out.json") -> "subprocess.Popen[str]":
        command = [sys.executable, str(SCRIPT), "--url", stub.url]
        command += ["--input", "test.json", "--output", output, "--batch-size", "16", *options]
        return subprocess.Popen(
            command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    return begin


def end(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def test_a_whole_run_ends_with_0_and_its_speed(start: Start, tmp_path: Path) -> None:
    code, out, err = end(start())
    assert (code, err) == (0, "")
    assert "200 rows in" in out
    assert "rows/s" in out
    assert "tokens/s" in out
    assert "out.json: all 200 rows, answered by demo" in out
    assert read_output(tmp_path / "out.json") == [
        {**row, "target": answer_to(str(row["input"]))} for row in rows(200)
    ]


def test_killed_at_random_moments_the_result_is_the_same_and_nothing_is_asked_twice(
    start: Start, stub: Stub, tmp_path: Path
) -> None:
    assert end(start(output="undisturbed.json"))[0] == 0
    inputs = [str(row["input"]) for row in rows(200)]
    source = random.Random(11)
    journal = tmp_path / "out.json.journal"
    stub.delay = 0.05  # five kills are over long before the rows are
    stub.asked.clear()
    asked_again: set[str] = set()
    for _ in range(5):
        done = _journaled(journal)
        process = start()
        _wait_for_more_lines(journal, len(done))
        time.sleep(source.uniform(0, 0.1))
        process.kill()
        assert end(process)[0] == -signal.SIGKILL
        _wait_for(lambda: stub.under_way == 0)
        asked_again |= {inputs[index] for index in done} & set(stub.asked)
        stub.asked.clear()
    done = _journaled(journal)
    assert 0 < len(done) < 200
    assert not (tmp_path / "out.json").exists()
    stub.delay = 0
    code, out, _ = end(start())
    assert code == 0
    assert f"{len(done)} of 200 rows are done already" in out
    assert not (asked_again | {inputs[index] for index in done} & set(stub.asked))
    assert (tmp_path / "out.json").read_bytes() == (tmp_path / "undisturbed.json").read_bytes()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_ends_with_130_and_says_how_to_go_on(
    start: Start, stub: Stub, tmp_path: Path, number: signal.Signals
) -> None:
    stub.delay = 0.05
    process = start()
    _wait_for(lambda: bool(_journaled(tmp_path / "out.json.journal")))
    process.send_signal(number)
    code, _, err = end(process)
    assert code == 130
    assert "the same command goes on" in err
    assert "Traceback" not in err
    stub.delay = 0
    assert end(start())[0] == 0


def test_missing_rows_are_listed_and_end_with_1(start: Start, stub: Stub, tmp_path: Path) -> None:
    stub.twist = lambda events: [
        failure(e["index"], "invalid_request", "too long") if e["index"] == 0 else e for e in events
    ]
    code, _, err = end(start("--connections", "1"))
    assert code == 1
    names = ", ".join(f"test-{index * 7}" for index in range(0, 200, 16))
    assert (
        f"error: 13 rows have no answer:\n  too long (error_type invalid_request): {names}" in err
    )
    assert "out.json.journal: the same command asks for the missing ones alone" in err
    assert not (tmp_path / "out.json").exists()


def test_bad_parameters_end_with_2_and_the_servers_words(start: Start, stub: Stub) -> None:
    body = {"error": "must be >= 1", "error_type": "invalid_request", "param": "max_tokens"}
    stub.faults += [Refusal(400, body)] * 8
    code, _, err = end(start("--parameters", '{"max_tokens": 0}'))
    assert code == 2
    assert "must be >= 1 (error_type invalid_request, param max_tokens)" in err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--parameters", "{"], "--parameters is not JSON"),
        (["--parameters", "[1]"], "--parameters: expected an object"),
        (["--parameters", '{"temperature": NaN}'], "--parameters cannot be sent as JSON"),
        (["--parameters", "none.yaml"], "--parameters none.yaml: No such file or directory"),
        (["--url", "localhost:8000"], "expected something like http://localhost:8000"),
        (["--batch-size", "0"], "expected a whole number from 1"),
        (["--timeout", "soon"], "expected a number of seconds"),
        (["--api-key", "schlüssel"], "no header can carry"),
        (["--input", "none.json"], "cannot read none.json"),
        (["--input", "build/demo/data/test.json"], "make it with `make demo`"),
        (["--output", "no/out.json"], "No such file or directory"),
        (["--colour"], "unrecognized arguments"),
    ],
)
def test_wrong_usage_ends_with_2_before_any_request(
    start: Start, stub: Stub, options: list[str], words: str
) -> None:
    code, _, err = end(start(*options))
    assert code == 2
    assert words in err
    assert "Traceback" not in err
    assert not stub.requests


def test_a_full_disk_ends_with_2_and_keeps_what_was_written(
    start: Start, stub: Stub, tmp_path: Path
) -> None:
    code = (
        "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000)); "
        "del sys.argv[0]; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    command = [sys.executable, "-c", code]
    command += [str(SCRIPT), "--url", stub.url, "--input", "test.json", "--output", "out.json"]
    write_input(tmp_path / "test.json", 200)
    unmeasured = {k: v for k, v in os.environ.items() if not k.startswith("COV")}
    run = subprocess.run(  # coverage would write a file, too
        command, cwd=tmp_path, env=unmeasured, capture_output=True, text=True, check=False
    )
    assert run.returncode == 2, run.stderr
    assert "cannot write out.json.journal: File too large" in run.stderr
    assert "Traceback" not in run.stderr
    done = _journaled(tmp_path / "out.json.journal")
    assert done
    asked = len(stub.asked)
    assert end(start("--batch-size", "32"))[0] == 0
    assert len(stub.asked) - asked == 200 - len(done)


def test_a_bar_is_drawn_on_a_terminal(tmp_path: Path, stub: Stub) -> None:
    write_input(tmp_path / "test.json", 20)
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    command = [sys.executable, str(SCRIPT), "--url", stub.url, "--input", "test.json"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=theirs, stdout=subprocess.DEVNULL)
    os.close(theirs)
    shown = b""
    try:
        while piece := os.read(ours, 4096):
            shown += piece
    except OSError:
        pass  # the other end is closed: the process is done
    finally:
        os.close(ours)
    assert process.wait(60) == 0
    assert b"20/20" in shown


def test_a_bare_clone_is_enough(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "client", tmp_path / "clone" / "client")
    for name in ("predict_testset", "score"):
        for command in ([f"clone/client/{name}.py"], ["-m", f"client.{name}"]):
            done = subprocess.run(
                [sys.executable, *command, "--help"],
                cwd=tmp_path if command[0] != "-m" else tmp_path / "clone",
                capture_output=True,
                text=True,
                check=True,
            )
            assert "usage:" in done.stdout


def test_the_key_of_the_environment_is_sent_but_never_shown(
    start: Start, stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MERGELINE_API_KEY", "secret")
    assert "secret" not in end(start("--help"))[1]
    assert end(start())[0] == 0
    assert stub.authorizations == {"Bearer secret"}


def test_the_client_loads_nothing_heavy() -> None:
    code = (
        "import client.predict_testset, client.score, sys, json; print(json.dumps([*sys.modules]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    heavy = {"torch", "transformers", "fastapi", "pydantic", "vllm", "peft", "numpy", "starlette"}
    assert not heavy & set(done.stdout.split())


def _journaled(path: Path) -> set[int]:
    if not path.exists():
        return set()
    lines = path.read_bytes().split(b"\n")[1:-1]
    return {json.loads(line)["entry"]["index"] for line in lines}


def _wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def _wait_for_more_lines(journal: Path, count: int) -> None:
    _wait_for(lambda: len(_journaled(journal)) > count)
