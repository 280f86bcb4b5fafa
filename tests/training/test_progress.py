"""What long work tells of itself: plain lines without a terminal, tqdm's bar on one."""

import re
from io import StringIO

import pytest

from training.progress import Meter


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_without_a_terminal_a_line_now_and_then_tells_rate_and_time_left(clock: Clock) -> None:
    stream = StringIO()
    with Meter("train", 600, "update", done=100, stream=stream, clock=clock) as meter:
        for _ in range(500):
            clock.now += 0.5
            meter.update(note="loss 2.30")
    assert "\r" not in stream.getvalue()
    lines = stream.getvalue().splitlines()
    assert lines[0] == "train: 120/600 updates (20%), 2.0 updates/s, 0:04:00 left, loss 2.30"
    assert lines[-1] == "train: 600/600 updates (100%), 2.0 updates/s, took 0:04:10, loss 2.30"
    assert len(lines) == 25  # one in ten seconds


def test_what_takes_longer_than_a_second_is_told_in_seconds_each(clock: Clock) -> None:
    stream = StringIO()
    meter = Meter("train", 10, "update", stream=stream, clock=clock)
    clock.now += 25
    meter.update()
    assert stream.getvalue() == "train: 1/10 updates (10%), 25.0 s/update, 0:03:45 left\n"


def test_bytes_are_told_in_their_multiples(clock: Clock) -> None:
    stream = StringIO()
    meter = Meter("merge", 13_500_000_000, "B", stream=stream, clock=clock)
    clock.now += 10
    meter.update(2_700_000_000)
    assert stream.getvalue() == "merge: 2.70GB/13.5GB (20%), 270MB/s, 0:00:40 left\n"


def test_short_work_has_one_line_or_none_where_nothing_is_to_stay(clock: Clock) -> None:
    stays, goes = StringIO(), StringIO()
    for stream in (stays, goes):
        meter = Meter("read", 2, "row", leave=stream is stays, stream=stream, clock=clock)
        for row in meter.over("ab"):
            assert row in "ab"
            clock.now += 0.5
    assert stays.getvalue() == "read: 2/2 rows (100%), 2.0 rows/s, took 0:00:01\n"
    assert not goes.getvalue()


def test_nothing_to_do_is_not_told(clock: Clock) -> None:
    stream = StringIO()
    assert list(Meter("merge", 0, "B", stream=stream, clock=clock).over(())) == []
    Meter("train", 8, "update", done=8, stream=stream, clock=clock).close()
    assert not stream.getvalue()


@pytest.mark.parametrize("kind", [StringIO, Terminal])
def test_a_process_that_shows_nothing_is_silent(
    kind: type[StringIO], clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    stream = kind()
    with Meter("train", 3, "update", shown=False, stream=stream, clock=clock) as meter:
        for _ in range(3):
            clock.now += 20
            meter.update()
        meter.write("loss 2.3")
    assert not stream.getvalue()
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("kind", [StringIO, Terminal])
def test_lines_of_the_caller_go_to_stdout_with_and_without_a_bar(
    kind: type[StringIO], clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with Meter("train", 3, "update", stream=kind(), clock=clock) as meter:
        meter.write("update 1/3  loss 2.3")
    assert capsys.readouterr().out == "update 1/3  loss 2.3\n"


def test_on_a_terminal_there_is_a_bar(clock: Clock) -> None:
    stream = Terminal()
    with Meter("train", 4, "update", stream=stream, clock=clock) as meter:
        for _ in range(4):
            meter.update(note="loss 2.30")
    assert re.search(r"\rtrain: 100%\|.* 4/4 .*loss 2.30", stream.getvalue())
