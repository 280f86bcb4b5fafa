"""What a run tells on the way where there is no terminal."""

import re

import pytest

from client.prediction.progress import Progress


def test_plain_lines_tell_speed_retries_and_the_time_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr("client.prediction.progress.time.monotonic", lambda: clock[0])
    with Progress(total=100, done=20) as progress:
        progress.start()
        clock[0] += 4
        progress.row("stop", 30)
        assert not capsys.readouterr().err  # a line now and then, not for each row
        progress.retry("busy")
        clock[0] += 16
        for _ in range(19):
            progress.row("stop", 30)
    first, second = capsys.readouterr().err.splitlines()
    assert first == "trying again: busy"
    assert re.fullmatch(r"22/100 rows, 0\.1 rows/s, 3 tokens/s, 1 retries, 0:13:00 left", second), (
        second
    )
    assert progress.summary() == "20 rows in 20.0 s: 1.0 rows/s, 30 tokens/s, 1 retries"
