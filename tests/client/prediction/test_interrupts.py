import subprocess
import sys

import pytest

from tests.paths import ROOT

CODE = """
import asyncio, signal
from asyncio.selector_events import BaseSelectorEventLoop
from client.prediction.interrupts import run_interruptible

signal.signal(signal.SIGINT, signal.default_int_handler)  # a parent may have it ignored
make, moments = BaseSelectorEventLoop._make_self_pipe, {moments}

def interrupted(loop):
    for moment in ("before", "after"):
        if moment in moments:
            signal.raise_signal(signal.SIGINT)
        if moment == "before":
            make(loop)

BaseSelectorEventLoop._make_self_pipe = interrupted

async def work():
    return "done"

try:
    print({run}(work))
except KeyboardInterrupt:
    print("interrupted")
"""


def outcome(run: str, moments: set[str]) -> tuple[str, str]:
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(run=run, moments=moments)],
        capture_output=True, text=True, check=True, cwd=ROOT,
    )  # fmt: skip
    return done.stdout.strip(), done.stderr


@pytest.mark.parametrize("moments", [{"before"}, {"after"}, {"before", "after"}])
def test_an_interrupt_while_the_loop_is_made_ends_without_a_traceback(moments: set[str]) -> None:
    assert outcome("run_interruptible", moments) == ("interrupted", "")


def test_python_alone_tells_a_traceback() -> None:
    assert "Traceback" in outcome("(lambda work: asyncio.run(work()))", {"before"})[1]


def test_without_an_interrupt_it_runs() -> None:
    assert outcome("run_interruptible", {"never"}) == ("done", "")
