"""`… | head -1`: a command whose reader has gone ends quietly, as if by SIGPIPE."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.paths import ROOT, SCORING

ENDED_BY_SIGPIPE = 141  # as shells tell it
MODULES = ("service", "training")  # packages that run by -m; the others' files are scripts
NO_COMMANDS = {"tests", "build"}
HALF_WRITTEN = """
from pathlib import Path
from training.files import write_aside
from training.pipes import run

def main():
    with write_aside(Path("model")) as aside:
        (aside / "config.json").touch()
        print("written", flush=True)

run(main)
"""


def commands() -> list[list[str]]:
    """What follows `python` for each file that runs as a program."""
    visible = (path for path in sorted(ROOT.iterdir()) if not path.name.startswith("."))
    folders = (path for path in visible if path.is_dir() and path.name not in NO_COMMANDS)
    files = (file for folder in folders for file in sorted(folder.rglob("*.py")))
    programs = (file for file in files if '\nif __name__ == "__main__":' in file.read_text("utf-8"))
    names = (file.relative_to(ROOT).as_posix() for file in programs)
    return [command(name) for name in names]


def command(name: str) -> list[str]:
    if not name.startswith(MODULES):
        return [name]
    return ["-m", name.removesuffix(".py").removesuffix("/__main__").replace("/", ".")]


def run(
    arguments: Sequence[str], gone: Sequence[str], folder: Path = ROOT
) -> "subprocess.CompletedProcess[bytes]":
    """Run a command; nobody has ever read from its streams named in `gone`."""
    reading, writing = os.pipe()
    os.close(reading)
    # unbuffered, argparse itself passes over what it cannot write, and ends with its usual code
    env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    stdout, stderr = (writing if name in gone else subprocess.PIPE for name in ("stdout", "stderr"))
    try:
        return subprocess.run(
            [sys.executable, *arguments], cwd=folder, check=False, timeout=120,
            env=env | {"PYTHONPATH": str(ROOT)}, stdout=stdout, stderr=stderr,
        )  # fmt: skip
    finally:
        os.close(writing)


def test_the_sweep_finds_the_commands() -> None:
    found = commands()
    for some in (["-m", "training.merge"], ["-m", "training.convert"], ["client/score.py"]):
        assert some in found


@pytest.mark.parametrize("arguments", commands(), ids=lambda arguments: arguments[-1])
def test_help_for_a_reader_that_has_gone(arguments: list[str]) -> None:
    ended = run([*arguments, "--help"], ["stdout"])
    assert (ended.returncode, ended.stderr) == (ENDED_BY_SIGPIPE, b"")


@pytest.mark.parametrize(
    "arguments",
    [
        ["k8s/sizing.py"],
        [
            *("client/score.py", "--gold", f"{SCORING}/dev_structured.json"),
            *("--predictions", f"{SCORING}/v00_perfect.predictions.jsonl"),
        ],
        [
            "client/post_generate_process.py",
            *(f"{SCORING}/v00_perfect.predictions.jsonl", os.devnull),
        ],
    ],
    ids=lambda arguments: arguments[0],
)
def test_results_for_a_reader_that_has_gone(arguments: list[str]) -> None:
    ended = run(arguments, ["stdout"])
    assert (ended.returncode, ended.stderr) == (ENDED_BY_SIGPIPE, b"")


@pytest.mark.parametrize(
    "arguments",
    [
        ["client/score.py"],
        ["k8s/sizing.py", "--config", "nowhere"],
        ["-m", "service.integrity", "nowhere"],
        ["-m", "training.convert", "hf", "--input", "nowhere", "--output", "neither"],
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_an_error_for_a_reader_that_has_gone(arguments: list[str]) -> None:
    ended = run(arguments, ["stderr"])
    assert (ended.returncode, ended.stdout) == (ENDED_BY_SIGPIPE, b"")
    assert run(arguments, ["stdout"]).returncode == 2  # nothing was to be written there


def test_what_is_half_written_is_removed(tmp_path: Path) -> None:
    ended = run(["-c", HALF_WRITTEN], ["stdout", "stderr"], tmp_path)
    assert ended.returncode == ENDED_BY_SIGPIPE
    assert not list(tmp_path.iterdir())
