"""A row that kills the engine costs itself alone: not the run, and not replica after replica."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from client.prediction.job import Job, predict
from tests.client.conftest import FAST, read_output, rows
from tests.client.stub import Break, Json, Refusal, Stub, _send, failure, running

MakeJob = Callable[..., Job]
PROMPTS = [str(row["input"]) for row in rows(40)]


def asked_with(stub: Stub, prompt: str) -> list[int]:
    """The lengths of the lists that held it."""
    return [len(each["prompt"]) for each in stub.requests if prompt in each["prompt"]]


def dying_of(stub: Stub, *poison: str) -> Callable[[list[Json]], list[Json]]:
    """All items of a list fail that holds one of these prompts: its engine has died."""

    def twist(events: list[Json]) -> list[Json]:
        if not set(poison) & set(stub.asked[-len(events) :]):
            return events
        return [failure(event["index"], "engine_died", "the engine has died") for event in events]

    return twist


@pytest.mark.parametrize("poison", [[0], [39], [3, 4], [1, 17, 38]])
@pytest.mark.parametrize("batch_size", [1, 8, 40])
def test_a_deadly_row_is_given_up_after_two_engines_and_all_others_are_answered(
    job: MakeJob, stub: Stub, poison: list[int], batch_size: int
) -> None:
    deadly = [PROMPTS[row] for row in poison]
    stub.twist = dying_of(stub, *deadly)
    missing = predict(job(pace=replace(FAST, batch_size=batch_size, connections=1)))
    assert set(missing) == {f"test-{row * 7}" for row in poison}
    assert all("2 engines died" in reason for reason in missing.values())
    for prompt in deadly:
        lists = asked_with(stub, prompt)
        assert len(lists) == 2
        assert lists[-1] == 1


def test_rows_of_other_connections_are_not_blamed(job: MakeJob, stub: Stub) -> None:
    stub.twist = dying_of(stub, PROMPTS[5])
    stub.delay = 0.01
    missing = predict(job(pace=replace(FAST, batch_size=4, connections=4)))
    assert set(missing) == {"test-35"}


def test_a_balancers_word_for_a_lost_replica_counts(job: MakeJob, stub: Stub) -> None:
    lost: Any = Refusal(502, {"error": "broke off", "error_type": "engine_died"})
    stub.faults += [lost]
    finished = job()
    assert predict(finished) == {}
    assert len(read_output(finished.output)) == 40
    alone = [each for each in stub.requests if len(each["prompt"]) == 1]
    assert len(alone) == FAST.batch_size


def test_a_cut_connection_to_a_server_that_lives_blames_nobody(job: MakeJob, stub: Stub) -> None:
    stub.faults += [Break(after=0, reset=True)] * 4
    assert predict(job()) == {}
    assert all(len(each["prompt"]) > 1 for each in stub.requests)


class Dying(Stub):
    """Its process is gone for a while once the engine has died, as a service's is."""

    def __init__(self, poison: str, accepts: bool) -> None:
        super().__init__()
        self._poison, self._accepts = poison, accepts
        self.engines = 1

    async def _generate(self, body: Json, writer: Any) -> None:
        if not self.ready:
            if self._accepts:  # as a port that is forwarded does: it is cut at once
                writer.transport.abort()
            else:
                _send(writer, 503, {"error": "the engine has died"})
            return
        if self._poison in body["prompt"]:
            self.ready = False
            self.engines += 1
            asyncio.get_running_loop().call_later(1, setattr, self, "ready", True)
            self.requests.append(body)
            writer.transport.abort()
            return
        await super()._generate(body, writer)


@pytest.mark.parametrize("accepts", [True, False])
def test_while_the_server_is_away_nobody_is_blamed(job: MakeJob, accepts: bool) -> None:
    dying = Dying(PROMPTS[5], accepts)
    with running(dying):
        pace = replace(FAST, batch_size=4, connections=8)
        missing = predict(job(urls=(dying.url,), pace=pace))
        assert set(missing) == {"test-35"}
        assert dying.engines == 3
