"""One run over several servers: whatever becomes of one of them."""

import threading
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from client.errors import JournalError
from client.prediction.job import Job, predict
from tests.client.conftest import FAST, read_output, rows
from tests.client.stub import Stub, answer_to, running

MakeJob = Callable[..., Job]
AWAY = "http://127.0.0.1:1"


def complete(job: Job) -> bool:
    return read_output(job.output) == [
        {**row, "target": answer_to(str(row["input"]))} for row in rows(40)
    ]


def test_all_servers_work(job: MakeJob, stub: Stub) -> None:
    stub.delay = 0.02
    with running(Stub(delay=0.02)) as other:
        both = job(urls=(stub.url, other.url), pace=replace(FAST, batch_size=4))
        assert not predict(both)
        assert min(len(stub.asked), len(other.asked)) >= 8
        assert len(stub.asked) + len(other.asked) == 40
    assert complete(both)


@pytest.mark.parametrize("first", [True, False])
def test_a_server_that_is_away_holds_nothing_up(job: MakeJob, stub: Stub, first: bool) -> None:
    urls = (AWAY, stub.url) if first else (stub.url, AWAY)
    patience = replace(FAST, model_wait=600)
    began = time.monotonic()
    assert not predict(job(urls=urls, pace=patience))
    assert time.monotonic() - began < patience.model_wait / 5
    assert complete(job())
    assert len(stub.asked) == 40


def test_the_rows_of_a_server_that_dies_are_asked_of_the_other(job: MakeJob, stub: Stub) -> None:
    stub.delay = 0.02
    dying = Stub(delay=0.02)
    dying.start()
    both = job(urls=(dying.url, stub.url), pace=replace(FAST, batch_size=4))
    finished: list[dict[str, str]] = []
    run = threading.Thread(target=lambda: finished.append(predict(both)))
    run.start()
    while len(dying.asked) < 4:
        time.sleep(0.001)
    dying.kill()
    run.join(30)
    assert finished == [{}]
    assert complete(both)


def test_a_server_that_comes_back_works_again(job: MakeJob, stub: Stub) -> None:
    stub.delay = 0.1
    first = Stub(delay=0.1)
    first.start()
    both = job(urls=(first.url, stub.url), pace=replace(FAST, batch_size=1, connections=1))
    finished: list[dict[str, str]] = []
    run = threading.Thread(target=lambda: finished.append(predict(both)))
    run.start()
    while not first.asked:
        time.sleep(0.001)
    first.kill()
    with running(Stub(first.port)) as second:
        run.join(30)
        assert second.asked
    assert finished == [{}]
    assert complete(both)


def test_when_all_are_gone_the_missing_rows_are_told(job: MakeJob) -> None:
    patience = replace(FAST, model_wait=1)
    missing = predict(job(urls=(AWAY, "http://127.0.0.1:2"), pace=patience))
    assert len(missing) == 40
    assert "was not ready within 1 s" in missing["test-0"]


def test_a_server_of_another_model_is_refused(job: MakeJob, stub: Stub) -> None:
    stub.delay = 0.1
    with (
        running(Stub(model="other")) as other,
        pytest.raises(JournalError, match="now serves another model"),
    ):
        predict(job(urls=(stub.url, other.url)))
