"""Predict, score and report in one go, against a server that is there or is started."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from client.evaluate import evaluate as evaluate_job
from client.prediction.job import Job
from tests.client.conftest import read_output
from tests.client.stub import Stub, answer_to
from tests.paths import ROOT, SCORING

GOLD = SCORING / "v00_perfect.predictions.jsonl"
STARTS_A_STUB = """
import sys, time
from tests.client.stub import Stub
Stub(int(sys.argv[1])).start()
time.sleep(600)
"""


def evaluate(tmp_path: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(ROOT / "client" / "evaluate.py"), "--gold", str(GOLD)]
    command += ["--folder", str(tmp_path / "evaluation"), *options]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )


def made(tmp_path: Path) -> set[str]:
    return {path.name for path in (tmp_path / "evaluation").iterdir()}


def running() -> str:
    """The command lines of all processes."""
    return subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout


def test_predictions_scores_and_report_are_made(tmp_path: Path, stub: Stub) -> None:
    run = evaluate(tmp_path, "--url", stub.url, "--parameters", '{"max_tokens": 5}')
    assert run.returncode == 0, run.stderr
    assert "\noverall " in run.stdout
    rows = read_output(GOLD)
    assert [row["target"] for row in read_output(tmp_path / "evaluation" / "predictions.json")] == [
        answer_to(str(row["input"])) for row in rows
    ]
    assert all(request["parameters"] == {"max_tokens": 5} for request in stub.requests)
    scores = json.loads((tmp_path / "evaluation" / "scores.json").read_text("utf-8"))
    assert len(scores["tasks"]) == 16
    page = (tmp_path / "evaluation" / "report.html").read_text("utf-8")
    assert f"demo: {scores['overall']:.2%}" in page


def test_it_is_a_function_of_a_job_too(tmp_path: Path, stub: Stub) -> None:
    output = tmp_path / "evaluation" / "predictions.json"
    assert not evaluate_job(Job(urls=(stub.url,), input=GOLD, output=output), compare=GOLD)
    scores = json.loads((tmp_path / "evaluation" / "scores.json").read_text("utf-8"))
    assert scores["compare"]["predictions"] == str(GOLD)
    assert scores["compare"]["difference"]["score"] > 0


def test_a_part_is_scored_against_that_part(tmp_path: Path, stub: Stub) -> None:
    options = ("--url", stub.url, "--tasks", "KUAKE-QIC", "MedDG", "--limit", "15")
    assert evaluate(tmp_path, *options).returncode == 0
    scores = json.loads((tmp_path / "evaluation" / "scores.json").read_text("utf-8"))
    assert sum(task["rows"] for task in scores["tasks"].values()) == 15
    assert len(stub.asked) == 15


def test_a_server_is_started_and_stopped(tmp_path: Path) -> None:
    script = tmp_path / "serve.py"
    script.write_text(STARTS_A_STUB)
    command = f"env PYTHONPATH={ROOT} {sys.executable} {script} {{port}}"
    run = evaluate(tmp_path, "--serve", command, "--limit", "20")
    assert run.returncode == 0, run.stderr
    assert str(script) not in running()
    assert {"server.log", "report.html", "gold_rows.json"} <= made(tmp_path)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("sh -c 'echo the weights are missing; exit 3'", "the weights are missing"),
        ("no-such-program {port}", "cannot start no-such-program"),
    ],
)
def test_a_server_that_does_not_start_is_told(tmp_path: Path, command: str, words: str) -> None:
    run = evaluate(tmp_path, "--serve", command)
    assert run.returncode == 2
    assert words in run.stderr
    assert "Traceback" not in run.stderr
    assert "report.html" not in made(tmp_path)


def test_a_server_behind_a_shell_is_stopped_too(tmp_path: Path) -> None:
    script = tmp_path / "serve.py"
    script.write_text(STARTS_A_STUB)
    serve = f"env PYTHONPATH={ROOT} {sys.executable} {script} {{port}}; true"
    assert evaluate(tmp_path, "--serve", f"sh -c '{serve}'", "--limit", "20").returncode == 0
    assert str(script) not in running()


def test_what_scoring_would_refuse_is_refused_first(tmp_path: Path, stub: Stub) -> None:
    gold = tmp_path / "gold.json"
    gold.write_bytes(GOLD.read_bytes() + b"{}\n")
    run = evaluate(tmp_path, "--url", stub.url, "--gold", str(gold))
    assert run.returncode == 2
    assert 'gold.json:193: the field "input" is missing' in run.stderr
    run = evaluate(tmp_path, "--url", stub.url, "--limit", "9", "--compare", str(GOLD))
    assert run.returncode == 2
    assert "lacks 183 rows" in run.stderr
    assert not stub.requests


def test_a_part_never_replaces_its_whole(tmp_path: Path, stub: Stub) -> None:
    folder = tmp_path / "evaluation"
    folder.mkdir()
    gold = folder / "gold_rows.json"
    gold.write_bytes(GOLD.read_bytes())
    run = evaluate(tmp_path, "--url", stub.url, "--gold", str(gold), "--limit", "9")
    assert run.returncode == 2
    assert gold.read_bytes() == GOLD.read_bytes()


@pytest.mark.parametrize("option", ["--output=x.json", "--input=x.json", "--shard=0/2"])
def test_options_of_the_prediction_that_do_not_fit_are_refused(
    tmp_path: Path, stub: Stub, option: str
) -> None:
    run = evaluate(tmp_path, "--url", stub.url, option)
    assert run.returncode == 2
    assert "is no option of evaluate: " in run.stderr


def test_wrong_options_end_it_before_any_request(tmp_path: Path, stub: Stub) -> None:
    run = evaluate(tmp_path, "--url", stub.url, "--colour")
    assert run.returncode == 2
    assert "unrecognized arguments: --colour" in run.stderr
    assert not stub.requests
