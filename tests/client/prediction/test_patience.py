"""How long a run waits for a server that is not there, or says "not now"."""

import threading
from collections.abc import Callable
from dataclasses import replace

from client.prediction.job import Job, predict
from client.prediction.window import Pace
from tests.client.conftest import FAST
from tests.client.stub import Json, Refusal, Stub, failure

MakeJob = Callable[..., Job]


def test_a_loading_server_is_waited_for(job: MakeJob, stub: Stub) -> None:
    stub.ready = False
    loaded = threading.Timer(1.5, lambda: setattr(stub, "ready", True))
    loaded.start()
    assert predict(job()) == {}
    loaded.join()


def test_a_server_that_never_comes_leaves_every_row_missing(job: MakeJob) -> None:
    missing = predict(job(urls=("http://127.0.0.1:1",), pace=Pace(model_wait=0)))
    assert len(missing) == 40
    assert "was not ready within 0 s" in missing["test-0"]


def test_with_no_patience_a_ready_server_is_asked(job: MakeJob) -> None:
    assert not predict(job(pace=replace(FAST, model_wait=0)))


def test_a_refusal_is_told_even_when_the_server_goes_away(job: MakeJob, stub: Stub) -> None:
    def refuse_and_die(events: list[Json]) -> list[Json]:
        stub.ready = False
        return [failure(0, "invalid_request", "too long")]

    stub.twist = refuse_and_die
    missing = predict(job(pace=Pace(batch_size=8, connections=1, model_wait=1)))
    assert len(missing) == 40
    assert missing["test-0"] == "too long (error_type invalid_request)"
    assert "no answer for 1 s" in missing["test-7"]


def test_no_pause_is_longer_than_the_patience(job: MakeJob, stub: Stub) -> None:
    stub.faults += [Refusal(503, {"error": "away"}, {"Retry-After": "86400"})] * 3
    missing = predict(job(pace=replace(FAST, model_wait=1)))
    assert "no answer for 1 s" in missing["test-0"]
