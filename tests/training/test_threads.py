import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from training import threads
from training.threads import LOOK_EVERY_S, Threads, threads_for


@pytest.fixture(autouse=True)
def four_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = torch.get_num_threads()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(threads, "usable_threads", lambda most: 4)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("cores", "count"), [(0.1, 1), (1.0, 1), (1.6, 1), (1.9, 2), (2.0, 2), (3.75, 4), (9.0, 4)]
)
def test_as_many_as_there_is_room_for(cores: float, count: int) -> None:
    assert threads_for(cores, 4) == count


def test_others_are_given_way_and_threads_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0, 0.0, 0.0]  # now, seconds that this process ran, seconds that cores were idle
    monkeypatch.setattr(threads, "_clocks", lambda: tuple(clock))
    monkeypatch.setattr(threads, "_IMPORTED", (0.0, 0.0, 0.0))
    monkeypatch.setattr("training.threads.time.monotonic", lambda: clock[0])

    def after(seconds: float, ours: float, idle: float) -> int:
        for place, passed in enumerate((seconds, ours, idle)):
            clock[place] += passed
        watch.look()
        return torch.get_num_threads()

    watch = Threads()
    second = LOOK_EVERY_S
    assert torch.get_num_threads() == 4
    assert after(second / 2, 0, 0) == 4  # too soon to tell
    assert after(second, 6 * second, 0) == 4
    assert after(second, 2 * second, 0) == 2  # others have the rest
    assert after(second, 0.7 * second, 0) == 1
    assert after(second, second, 3 * second) == 4  # they have gone
    with watch:
        assert after(second, second, 0) == 1
    assert torch.get_num_threads() == 4  # for what the process does next


def test_a_number_that_was_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    torch.set_num_threads(3)
    watch = Threads()
    monkeypatch.setattr(threads, "_clocks", lambda: pytest.fail("looked"))
    monkeypatch.setattr("training.threads.time.monotonic", lambda: 1e9)
    watch.look()
    assert torch.get_num_threads() == 3


def test_the_machines_own_numbers_can_be_read() -> None:
    code = "import training.threads as t; print(*t._clocks(), t.usable_threads(64))"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    now, ours, idle, usable = map(float, run.stdout.split())
    assert now > 0
    assert ours > 0
    assert idle > 0
    assert usable >= 1


def test_the_first_number_comes_from_the_seconds_of_loading(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(threads, "_IMPORTED", (0.0, 0.0, 0.0))
    monkeypatch.setattr(threads, "_clocks", lambda: (3.0, 2.0, 0.1))  # two cores' worth was others'
    monkeypatch.setattr("training.threads.time.monotonic", lambda: 3.0)
    with Threads():
        assert torch.get_num_threads() == 1
