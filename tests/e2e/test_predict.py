"""The client against the real service, with either of them killed on the way."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.paths import ROOT
from tests.server import ServerProcess

PARAMETERS = '{"max_tokens": 48, "ignore_eos": true}'


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").split("\n") if line]


def client(url: str, source: Path, output: Path) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [
            sys.executable, str(ROOT / "client" / "predict_testset.py"), "--url", url,
            "--input", str(source), "--output", str(output), "--parameters", PARAMETERS,
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


def test_the_whole_test_set_is_answered_in_order_with_every_field(
    server: ServerProcess, demo: Path, tmp_path: Path
) -> None:
    source, output = demo / "data" / "test.json", tmp_path / "predictions.json"
    assert client(server.url, source, output).wait(timeout=300) == 0
    for asked, answered in zip(rows(source), rows(output), strict=True):
        assert answered["target"]
        assert {**asked, "target": answered["target"]} == answered


def test_a_killed_client_goes_on_and_asks_no_finished_row_again(
    server: ServerProcess, demo: Path, tmp_path: Path
) -> None:
    source = demo / "data" / "test.json"
    undisturbed, output = tmp_path / "undisturbed.json", tmp_path / "predictions.json"
    assert client(server.url, source, undisturbed).wait(timeout=300) == 0
    for count in (7, 60):
        killed = client(server.url, source, output)
        wait_for_rows(output, count)
        killed.kill()
        killed.wait()
    finished = finished_rows(output)
    assert 60 <= finished < len(rows(source))
    while server.metric("mergeline_requests_in_flight") > 0:
        time.sleep(0.05)  # the killed client's requests are being aborted
    asked_before = server.metric("mergeline_prompts_total")
    assert client(server.url, source, output).wait(timeout=300) == 0
    asked = server.metric("mergeline_prompts_total") - asked_before
    assert asked == len(rows(source)) - finished
    assert output.read_bytes() == undisturbed.read_bytes()


def test_a_killed_server_that_comes_back_loses_nothing(
    server: ServerProcess, demo: Path, logs: Path, tmp_path: Path
) -> None:
    source = demo / "data" / "test.json"
    undisturbed, output = tmp_path / "undisturbed.json", tmp_path / "predictions.json"
    assert client(server.url, source, undisturbed).wait(timeout=300) == 0
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
