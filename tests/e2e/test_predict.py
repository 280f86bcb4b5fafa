"""The client against the real service, with either of them killed on the way."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.waiting import wait_idle
from tests.paths import ROOT
from tests.server import ServerProcess

PARAMETERS = {"max_tokens": 48}
ROWS = 400  # for as many seconds as it takes to kill something


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").split("\n") if line]


def client(url: str, source: Path, output: Path, **parameters: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [
            sys.executable, str(ROOT / "client" / "predict_testset.py"), "--url", url,
            "--input", str(source), "--output", str(output),
            "--parameters", json.dumps(PARAMETERS | parameters),
            "--batch-size", "8", "--connections", "2", "--model-wait", "300",
        ],
        stdout=subprocess.DEVNULL,
    )  # fmt: skip


def finished_rows(output: Path) -> int:
    """Rows in the journal; a last line that a kill tore does not count."""
    journal = output.with_name(output.name + ".journal")
    return max(0, journal.read_bytes().count(b"\n") - 1) if journal.exists() else 0


def wait_for_rows(output: Path, count: int) -> None:
    deadline = time.monotonic() + 120
    while finished_rows(output) < count:
        assert time.monotonic() < deadline, f"{finished_rows(output)} of {count} rows"
        time.sleep(0.01)


def write_source(demo: Path, folder: Path) -> Path:
    """Rows that the model was trained on, to be answered up to their end.

    It knows what to say there: rounding, which differs from batch to batch, decides nothing.
    """
    source = folder / "test.json"
    lines = (demo / "data" / "train.json").read_text("utf-8").split("\n")[:ROWS]
    source.write_text("\n".join(lines), "utf-8")
    return source


@pytest.fixture(scope="module")
def source(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_source(demo, tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def undisturbed(server: ServerProcess, source: Path) -> Path:
    """The predictions of a run in which nothing happens."""
    output = source.with_name("predictions.json")
    assert client(server.url, source, output).wait(timeout=300) == 0
    return output


def test_the_whole_test_set_is_answered_in_order_with_every_field(
    undisturbed: Path, source: Path
) -> None:
    assert len(rows(undisturbed)) == ROWS
    for asked, answered in zip(rows(source), rows(undisturbed), strict=True):
        assert answered["target"]
        assert {**asked, "target": answered["target"]} == answered


def test_a_killed_client_goes_on_and_asks_no_finished_row_again(
    server: ServerProcess, undisturbed: Path, source: Path, tmp_path: Path
) -> None:
    output = tmp_path / "predictions.json"
    for count in (7, 60):
        killed = client(server.url, source, output)
        wait_for_rows(output, count)
        killed.kill()
        killed.wait()
    finished = finished_rows(output)
    assert 60 <= finished < len(rows(source))
    wait_idle(server)  # the killed client's requests are being aborted
    asked_before = server.metric("mergeline_prompts_total")
    assert client(server.url, source, output).wait(timeout=300) == 0
    asked = server.metric("mergeline_prompts_total") - asked_before
    assert asked == len(rows(source)) - finished
    assert output.read_bytes() == undisturbed.read_bytes()


def test_a_killed_server_that_comes_back_loses_nothing(
    undisturbed: Path, source: Path, demo: Path, logs: Path, tmp_path: Path
) -> None:
    output = tmp_path / "predictions.json"
    mortal = ServerProcess(demo / "model", logs / "mortal.log").wait_ready()
    try:
        running = client(mortal.url, source, output)
        wait_for_rows(output, 40)
        engine = mortal.descendants()
        mortal.kill()
        assert running.poll() is None
        mortal.wait_gone(engine)
        mortal.start()
        assert running.wait(timeout=300) == 0
    finally:
        mortal.stop()
    assert output.read_bytes() == undisturbed.read_bytes()
