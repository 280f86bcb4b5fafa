"""Rows under way at one server: many where they fit, few where they do not."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest

from client.prediction.job import Job, predict
from client.prediction.window import Pace, Ticket, Window
from tests.client.conftest import read_output, rows
from tests.client.stub import Stub, answer_to

PACE = Pace(batch_size=8, connections=4, latency=10)
MakeJob = Callable[..., Job]


def fill(window: Window) -> list[Ticket]:
    """Send lists as long as there is room."""
    sent = []
    while window.room:
        sent.append(window.enter(window.room))
    return sent


def end(window: Window, sent: list[Ticket], seconds: float | None = None) -> None:
    """All of them are answered after so many seconds, or refused."""
    for ticket in sent:
        if seconds is None:
            window.overloaded(ticket)
        else:
            window.answered(ticket, seconds)
        window.leave(ticket)


def grown(window: Window, rounds: int) -> list[int]:
    """The rows under way in each of some rounds that are answered in time."""
    under_way = []
    for _ in range(rounds):
        sent = fill(window)
        under_way.append(sum(ticket.rows for ticket in sent))
        end(window, sent, seconds=1)
    return under_way


def test_it_begins_with_all_connections_full() -> None:
    assert [ticket.rows for ticket in fill(Window(PACE))] == [8] * 4


def test_lists_that_are_refused_together_halve_it_once() -> None:
    window = Window(PACE)
    end(window, fill(window))
    assert [ticket.rows for ticket in fill(window)] == [4] * 4


def test_answers_let_it_grow_by_at_most_a_list_a_round_up_to_its_most() -> None:
    window = Window(PACE)
    for _ in range(2):
        end(window, fill(window))
    under_way = grown(window, rounds=8)
    assert under_way[0] == 8
    assert all(0 <= after - before <= 8 for before, after in pairwise(under_way))
    assert under_way[-2:] == [32, 32]


def test_from_a_single_row_it_at_most_doubles_in_a_round() -> None:
    window = Window(PACE)
    for _ in range(20):
        end(window, fill(window))
    assert grown(window, rounds=4) == [1, 2, 4, 8]


def test_however_often_it_is_refused_one_row_is_tried() -> None:
    window = Window(PACE)
    for _ in range(20):
        end(window, fill(window))
    assert [ticket.rows for ticket in fill(window)] == [1]


def test_slow_answers_shrink_it_in_proportion_but_never_to_fewer_rows_than_connections() -> None:
    window = Window(PACE)
    end(window, fill(window), seconds=16)
    sent = fill(window)
    assert sum(ticket.rows for ticket in sent) == 20
    for _ in range(6):
        end(window, sent, seconds=1000)
        sent = fill(window)
    assert [ticket.rows for ticket in sent] == [1] * 4


def test_a_server_that_refuses_a_flood_is_kept_busy_and_seldom_flooded(
    job: MakeJob, stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client.prediction.dispatch._LONGEST_BACK_OFF_S", 0.01)
    stub.most_under_way, stub.delay = 12, 0.004
    flooding = job(pace=replace(PACE, batch_size=10, model_wait=20))
    assert not predict(flooding)
    answered = [{**row, "target": answer_to(str(row["input"]))} for row in rows(40)]
    assert read_output(flooding.output) == answered
    assert len(stub.asked) == 40
    assert len(stub.requests) < 40
    assert stub.refused <= len(stub.requests) / 2


def test_a_server_that_is_slow_is_asked_for_less(job: MakeJob, stub: Stub) -> None:
    stub.delay = 0.02
    assert not predict(job(pace=Pace(batch_size=10, connections=1, latency=0.1)))
    lengths = [len(request["prompt"]) for request in stub.requests]
    assert lengths[0] == 10
    assert lengths[-1] <= 5
