"""Predict, score and report in one go, against a server that is there or is started."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from client.evaluate import evaluate as evaluate_job
from client.prediction.job import Job
from tests.client.conftest import read_output
from tests.client.stub import Stub, answer_to
from tests.paths import ROOT, SCORING

GOLD = SCORING / "v00_perfect.predictions.jsonl"
Run = subprocess.CompletedProcess[str]
STARTS_A_STUB = """
import sys, time
from tests.client.stub import Stub
Stub(int(sys.argv[1])).start()
time.sleep(600)
"""
# Its second argument is a model directory: its config.json is the fingerprint, and "right" as that
# makes a model that knows the gold answers.
STARTS_A_MODEL = f"""
import json, sys, time
from pathlib import Path
from tests.client import stub
folder = Path(sys.argv[2])
served = stub.Stub(int(sys.argv[1]), model=folder.name)
served.fingerprint = (folder / "config.json").read_text()
if served.fingerprint == "right":
    rows = map(json.loads, open({str(GOLD)!r}, "rb"))
    stub.answer_to = {{row["input"]: row["target"] for row in rows}}.get
served.start()
time.sleep(600)
"""


def evaluate(tmp_path: Path, *options: str) -> Run:
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


def model(tmp_path: Path, name: str, content: str) -> str:
    folder = tmp_path / name
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(content)
    return str(folder)


def serving(tmp_path: Path) -> str:
    """The command that serves {model}, of which tmp_path/served tells each start."""
    script = tmp_path / "serve.py"
    script.write_text(f"open({str(tmp_path / 'served')!r}, 'a').write('.')\n{STARTS_A_MODEL}")
    return f"env PYTHONPATH={ROOT} {sys.executable} {script} {{port}} {{model}}"


def starts(tmp_path: Path) -> int:
    path = tmp_path / "served"
    return len(path.read_text()) if path.exists() else 0


def compare(tmp_path: Path, one: str, other: str, *options: str) -> Run:
    served = ("--serve", serving(tmp_path), "--model", one, "--against", other)
    return evaluate(tmp_path, *served, *options)


def scores_of(tmp_path: Path) -> dict[str, Any]:
    scores = json.loads((tmp_path / "evaluation" / "scores.json").read_text("utf-8"))
    assert isinstance(scores, dict)
    return scores


def test_two_models_are_served_in_turn_and_compared(tmp_path: Path) -> None:
    one, other = model(tmp_path, "float model", "a"), model(tmp_path, "int8", "right")
    run = compare(tmp_path, one, other)
    assert run.returncode == 0, run.stderr
    said = run.stdout
    assert 0 < said.index(f"model 1 of 2: {one}\n") + 1 < said.index(f"model 2 of 2: {other}\n")
    assert "\n0 of 192 answers (0.0%) are the same text\n" in said
    assert "%], distinguishable from zero: better\n" in said
    second = scores_of(tmp_path)["compare"]
    assert second["overall"] > 0.5  # some rows share a prompt
    assert second["difference"]["interval"][0] > 0
    folder = tmp_path / "evaluation"
    made = [read_output(path) for path in (
        folder / "predictions.json", folder / "against-int8" / "predictions.json",
    )]  # fmt: skip
    answers = {row["input"]: row["target"] for row in read_output(GOLD)}
    for row, first, right in zip(read_output(GOLD), *made, strict=True):
        assert first["target"] == answer_to(str(row["input"]))
        assert right["target"] == answers[row["input"]]
    assert "same text" in (folder / "report.html").read_text("utf-8")
    assert str(tmp_path / "serve.py") not in running()


def test_a_model_does_not_differ_from_itself(tmp_path: Path) -> None:
    one = model(tmp_path, "one", "a")
    run = compare(tmp_path, one, one, "--tasks", "MedDG", "KUAKE-QIC", "--limit", "15")
    assert run.returncode == 0, run.stderr
    second = scores_of(tmp_path)["compare"]
    assert second["difference"] == {"score": 0, "interval": [0, 0]}
    assert second["same_texts"] == 15


def test_a_comparison_goes_on_where_it_stopped(tmp_path: Path) -> None:
    one, other = model(tmp_path, "one", "a"), model(tmp_path, "other", "right")
    assert compare(tmp_path, one, other).returncode == 0
    journal = tmp_path / "evaluation" / "against-other" / "predictions.json.journal"
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:101]))
    before = scores_of(tmp_path)
    run = compare(tmp_path, one, other)
    assert run.returncode == 0, run.stderr
    assert "192 of 192 rows are done already" in run.stdout
    assert "100 of 192 rows are done already" in run.stdout
    assert scores_of(tmp_path) == before


def test_answers_of_another_model_are_not_taken_for_this_ones(tmp_path: Path) -> None:
    one, other = model(tmp_path, "one", "a"), model(tmp_path, "other", "b")
    assert compare(tmp_path, one, other).returncode == 0
    model(tmp_path, "other", "quantised anew")
    run = compare(tmp_path, one, other)
    assert run.returncode == 2
    assert "against-other" in run.stderr
    assert 'fingerprint was "b", is "quantised anew"' in run.stderr


def test_answers_to_other_rows_are_not_compared(tmp_path: Path) -> None:
    one, other = model(tmp_path, "one", "a"), model(tmp_path, "other", "b")
    assert compare(tmp_path, one, other, "--limit", "9").returncode == 0
    answered = tmp_path / "evaluation" / "against-other" / "predictions.json"
    run = evaluate(tmp_path, "--url", "http://127.0.0.1:9", "--compare", str(answered))
    assert run.returncode == 2
    assert f"{answered} lacks 183 rows" in run.stderr
    gold = tmp_path / "gold.json"
    gold.write_bytes(b"".join(GOLD.read_bytes().splitlines(keepends=True)[1:]))
    run = compare(tmp_path, one, other, "--gold", str(gold))
    assert run.returncode == 2
    assert "begun with another input" in run.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--serve", "a {model}", "--model", "m", "--against", "gone"), "--against gone: no model"),
        (("--serve", "a", "--against", "gone"), "--against needs --model"),
        (("--serve", "a {model}"), "--model is what {model} stands for"),
        (("--serve", "a", "--model", "m"), "--model is what {model} stands for"),
        (("--model", "m"), "--model and --against need --serve"),
        (("--against", "gone"), "--model and --against need --serve"),
        (("--against", "a", "--compare", "b"), "not allowed with argument"),
    ],
)
def test_models_and_commands_that_do_not_fit_are_refused_first(
    tmp_path: Path, options: tuple[str, ...], words: str
) -> None:
    run = evaluate(tmp_path, *options)
    assert run.returncode == 2
    assert words in run.stderr
    assert "Traceback" not in run.stderr
    assert not (tmp_path / "evaluation").exists()


def test_the_second_model_waits_until_the_first_has_answered_every_row(tmp_path: Path) -> None:
    one, other = model(tmp_path, "one", "a"), model(tmp_path, "other", "b")
    command = serving(tmp_path)
    script = tmp_path / "serve.py"
    refuses = 'served.twist = lambda events: [stub.failure(e["index"], "internal") for e in events]'
    script.write_text(script.read_text().replace("served.start()", f"{refuses}\nserved.start()"))
    options = ("--serve", command, "--model", one, "--against", other, "--limit", "2")
    run = evaluate(tmp_path, *options)
    assert run.returncode == 1
    assert "error: 2 rows have no answer:" in run.stderr
    assert starts(tmp_path) == 1
    assert "scores.json" not in made(tmp_path)
