"""The predict Job's own command lines: three indices, one killed and run again, merged."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_predict import rows, wait_for_rows
from tests.k8s.rendering import render
from tests.paths import ROOT
from tests.server import ServerProcess

OVERLAY = ROOT / "k8s" / "overlays" / "predict"


class Pod:
    """The only container of a Job, as the kubelet would start it, with our files and our server."""

    def __init__(self, job: dict[str, Any], work: Path, url: str) -> None:
        [container] = job["spec"]["template"]["spec"]["containers"]
        [mount] = container["volumeMounts"]
        self._places = {mount["mountPath"]: str(work), "http://mergeline:8080": url}
        program, *arguments = container["command"]
        assert program == "python"
        self._arguments = [*arguments, *container["args"]]

    def start(self, index: int = 0) -> "subprocess.Popen[bytes]":
        """The container of one completion index."""
        variables = {"JOB_COMPLETION_INDEX": str(index)}
        arguments = [self._here(expand(part, variables)) for part in self._arguments]
        return subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT, env={**os.environ, **variables}, stdout=subprocess.DEVNULL,
        )  # fmt: skip

    def _here(self, argument: str) -> str:
        for there, here in self._places.items():
            argument = argument.replace(there, here)
        return argument


def expand(text: str, variables: dict[str, str]) -> str:
    """$(NAME), as the kubelet replaces it."""
    return re.sub(r"\$\((\w+)\)", lambda found: variables[found[1]], text)


@pytest.fixture
def jobs() -> dict[str, dict[str, Any]]:
    return {one["metadata"]["name"]: one for one in render(OVERLAY) if one["kind"] == "Job"}


def test_three_indices_one_killed_and_merged_are_one_run(
    server: ServerProcess, demo: Path, tmp_path: Path, jobs: dict[str, dict[str, Any]]
) -> None:
    source = (demo / "data" / "test.json").read_text("utf-8")
    (tmp_path / "test.json").write_text(source, "utf-8")
    predict, merge = (Pod(jobs[name], tmp_path, server.url) for name in ("predict", "merge"))
    count = jobs["predict"]["spec"]["completions"]
    merging = merge.start()
    running = [predict.start(index) for index in range(count)]
    wait_for_rows(tmp_path / "predictions-1.json", 5)
    running[1].kill()
    running[1].wait()
    assert not (tmp_path / "predictions-1.json").exists()
    assert [running[index].wait(timeout=300) for index in (0, 2)] == [0, 0]
    assert merging.poll() is None, "merged without the shard that was killed"
    assert predict.start(1).wait(timeout=300) == 0
    assert merging.wait(timeout=300) == 0
    whole = tmp_path / "whole.json"
    command = [sys.executable, "-m", "client.predict_testset", "--url", server.url]
    command += ["--input", str(tmp_path / "test.json"), "--output", str(whole)]
    assert subprocess.run(command, cwd=ROOT, check=False, capture_output=True).returncode == 0
    merged = tmp_path / "test_predictions.json"
    assert merged.read_bytes() == whole.read_bytes()
    assert len(rows(merged)) == len(source.splitlines())
