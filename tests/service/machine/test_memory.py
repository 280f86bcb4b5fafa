"""What glibc does with freed memory: in a process of its own, for it reads variables at start."""

import os
import subprocess
import sys

import pytest

from service.machine.memory import keep_freed_memory

# 200 pieces of 1 MB, and between any two something that stays: freeing them leaves gaps
GAPS = """
import re, time, service.machine.memory as memory
memory.TRIM_EVERY_S = 0.5
def resident_mb():
    return int(re.search(r"VmRSS:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024
pieces = [b"x" * (2**20 if i % 2 else 2**11) for i in range(400)]
full = resident_mb()
del pieces[1::2]
kept = resident_mb()
memory.trim_malloc_periodically()
until = time.monotonic() + 60
while full - resident_mb() < 150 and time.monotonic() < until: time.sleep(0.1)
print(full - kept, kept - resident_mb())
"""


def given_back(environment: dict[str, str]) -> tuple[float, float]:
    """MB when they are freed, and within a minute from then."""
    run = subprocess.run(
        [sys.executable, "-c", GAPS],
        env=environment, check=True, capture_output=True, text=True,
    )  # fmt: skip
    at_once, later = map(float, run.stdout.split())
    return at_once, later


def test_what_is_kept_for_the_next_step_is_given_back_in_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    usual = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    at_once, later = given_back(usual)
    assert at_once > 150
    assert abs(later) < 20
    keeping = usual.copy()
    monkeypatch.setattr(os, "environ", keeping)
    keep_freed_memory()
    at_once, later = given_back(keeping)
    assert abs(at_once) < 20
    assert later > 150


@pytest.mark.parametrize(("keeps", "threads"), [(True, 2), (False, 1)])
def test_a_process_of_the_engine_gives_back_what_it_keeps(
    keeps: bool, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One thread watches the parent; the other gives back."""
    usual = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    monkeypatch.setattr(os, "environ", usual)
    if keeps:
        keep_freed_memory()
    code = "from tests.service.engine.spawned import threads_of_plugin; print(threads_of_plugin())"
    run = subprocess.run(
        [sys.executable, "-c", code], env=usual, check=True, capture_output=True, text=True
    )
    assert int(run.stdout) == threads
