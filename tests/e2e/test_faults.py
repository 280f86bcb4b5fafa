"""Clients that vanish, a queue that is full, a server told to stop: on the real engine."""

import asyncio
import json
import signal
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import QUEUED, SEQUENCES
from tests.e2e.http.connection import connected
from tests.e2e.waiting import reaches, until, wait_given_up, wait_idle
from tests.server import ServerProcess, serving

PLACES = SEQUENCES + QUEUED
CLIENTS = 30


def exactly(tokens: int) -> dict[str, Any]:
    return {"max_tokens": tokens, "ignore_eos": True}


def v1_body(tokens: int, **more: Any) -> dict[str, Any]:
    return {"model": "model", "prompt": "感冒", **exactly(tokens), **more}


def test_200_clients_that_vanish_leave_nothing_running(server: ServerProcess) -> None:
    asyncio.run(_vanish(server, 200))
    wait_given_up(server)
    assert server.generate("感冒", **exactly(4))["num_output_tokens_cf"] == 4


async def _vanish(server: ServerProcess, clients: int) -> None:
    ours = {"prompt": "感冒", "parameters": exactly(3000), "stream": True}
    openai = v1_body(3000, stream=True)
    async with AsyncExitStack() as stack:
        open_ones = [await stack.enter_async_context(connected(server)) for _ in range(clients)]
        for number, one in enumerate(open_ones):
            if number % 4:
                await one.post("/generate", ours)
            else:
                await one.post("/v1/completions", openai)
        await asyncio.gather(*(one.until(b"data: {") for one in open_ones))
        assert await asyncio.to_thread(server.metric, "vllm:num_requests_running") == clients


def test_a_full_queue_refuses_the_next_and_harms_none_of_those_in_it(
    bounded: ServerProcess,
) -> None:
    asyncio.run(_overfill(bounded))
    wait_idle(bounded)
    assert bounded.generate(["感冒"] * PLACES, **exactly(2))["usage"]["completion_tokens"] == (
        2 * PLACES
    )


async def _overfill(server: ServerProcess) -> None:
    body = {"prompt": "感冒", "parameters": exactly(1000)}
    async with httpx.AsyncClient(base_url=server.url, timeout=300) as client:
        inside = [
            asyncio.create_task(client.post("/generate", json={**body, "stream": number % 2 == 1}))
            for number in range(PLACES - 1)
        ]
        inside.append(asyncio.create_task(client.post("/v1/completions", json=v1_body(1000))))
        await reaches(server, "mergeline_prompts_in_flight", PLACES)
        for more in (body, {**body, "stream": True}, {**body, "prompt": ["感冒", "发烧"]}):
            refused = await client.post("/generate", json=more)
            assert (refused.status_code, refused.json()["error_type"]) == (429, "overloaded")
            assert int(refused.headers["Retry-After"]) >= 1
        refused = await client.post("/v1/completions", json=v1_body(1))
        assert (refused.status_code, refused.json()["error"]["type"]) == (429, "overloaded")
        assert refused.json()["error"]["code"] == 429
        assert int(refused.headers["Retry-After"]) >= 1
        assert not any(task.done() for task in inside), "the refusals came after the rush"
        answers = [await task for task in inside]
    assert [answer.status_code for answer in answers] == [200] * PLACES
    assert [completion_tokens(answer) for answer in answers] == [1000] * PLACES


def completion_tokens(answer: httpx.Response) -> int:
    """Those of a whole answer or a stream."""
    if answer.headers["Content-Type"].startswith("text/event-stream"):
        ends = [event["usage"] for event in events(answer) if "usage" in event]
        return sum(usage["completion_tokens"] for usage in ends)
    return int(answer.json()["usage"]["completion_tokens"])


def events(answer: httpx.Response) -> list[dict[str, Any]]:
    """A stream's, which has to be whole."""
    lines = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1] if not line.startswith(":")]


class Load:
    """Clients that ask again as soon as they are answered, until they are refused."""

    KINDS = (
        ("/generate", {"prompt": "感冒", "parameters": exactly(120)}, 120),
        ("/generate", {"prompt": "发烧", "parameters": exactly(120), "stream": True}, 120),
        ("/generate", {"prompt": ["感冒", "发烧"], "parameters": exactly(60)}, 120),
        ("/generate", {"prompt": ["感冒"] * 2, "parameters": exactly(60), "stream": True}, 120),
        ("/v1/completions", v1_body(120), 120),
    )  # fmt: skip

    def __init__(self, server: ServerProcess) -> None:
        self._server = server
        self.signalled = asyncio.Event()
        self.before = self.after = self.refused = 0

    async def has_been_answered(self) -> bool:
        return self.before >= 2 * CLIENTS

    async def client(self, http: httpx.AsyncClient, number: int) -> None:
        path, body, tokens = self.KINDS[number % len(self.KINDS)]
        while True:
            late = self.signalled.is_set()
            try:
                answer = await http.post(path, json=body)
            except httpx.TransportError:
                assert late, "a request from before the signal got no answer"
                return
            if answer.status_code == 503:
                assert self.signalled.is_set()
                assert int(answer.headers["Retry-After"]) >= 1
                self.refused += 1
                return
            assert (answer.status_code, completion_tokens(answer)) == (200, tokens)
            if self.signalled.is_set():
                self.after += 1
            else:
                self.before += 1


def test_livez_answers_early_and_sigterm_under_load_loses_nothing_that_was_accepted(
    demo: Path, logs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(logs))
    server = ServerProcess(demo / "model", logs / "drain.log", cpu_kvcache_gib=1)
    try:
        _is_alive_before_it_is_ready(server)
        engine = server.descendants()
        asyncio.run(_drain(server))
        assert server.process.wait(timeout=120) == 0
        server.wait_gone(engine)
        assert not list(logs.glob("pymp-*")), "the fork server's socket stays behind"
    finally:
        server.stop()


def _is_alive_before_it_is_ready(server: ServerProcess) -> None:
    """It is ready only when a token was generated."""
    alive_after = server.wait_until("/livez")
    with httpx.Client(base_url=server.url, timeout=60) as http:
        assert http.get("/readyz").status_code == 503
        assert http.get("/is_ready").json() is False
        refused = http.post("/generate", json={"prompt": "感冒"})
    assert (refused.status_code, "retry-after" in refused.headers) == (503, True)
    ready_after = server.wait_until("/readyz")
    print(f"livez after {alive_after:.1f} s, readyz after {ready_after:.1f} s")
    assert server.metric("vllm:generation_tokens_total") >= 1


async def _drain(server: ServerProcess) -> None:
    load = Load(server)
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=server.url, timeout=300, limits=limits) as http:
        long = asyncio.create_task(
            http.post("/generate", json={"prompt": "感冒", "parameters": exactly(2000)})
        )
        tasks = [asyncio.create_task(load.client(http, number)) for number in range(CLIENTS)]
        await until(load.has_been_answered)
        load.signalled.set()
        server.process.send_signal(signal.SIGTERM)
        probe = await http.get("/readyz")
        assert probe.status_code == 503, "ready, though told to stop"
        assert (await http.get("/livez")).status_code == 200
        await asyncio.gather(*tasks)
        assert completion_tokens(await long) == 2000
    assert load.after >= CLIENTS / 2, "hardly any were under way at the signal"
    assert load.refused >= CLIENTS / 2


def test_a_second_sigterm_ends_it_at_once(demo: Path, logs: Path) -> None:
    with serving(demo / "model", logs / "twice.log", cpu_kvcache_gib=1) as server:
        engine = server.descendants()
        asyncio.run(_stop_twice(server))
        server.process.wait(timeout=120)  # it has refused what it could not give up otherwise
    server.wait_gone(engine)


async def _stop_twice(server: ServerProcess) -> None:
    async with httpx.AsyncClient(base_url=server.url, timeout=300) as http:
        body = {"prompt": ["感冒"] * 8, "parameters": exactly(3000)}
        asked = asyncio.create_task(http.post("/generate", json=body))
        await reaches(server, "mergeline_requests_in_flight", 1)
        server.process.send_signal(signal.SIGTERM)

        async def draining() -> bool:
            return (await http.get("/readyz")).status_code == 503

        await until(draining)
        assert not asked.done()
        server.process.send_signal(signal.SIGTERM)
        assert (await asked).status_code == 503
