"""Loading, ready, draining, dead: what the routes answer, and what is aborted."""

import asyncio
import re
import socket

import httpx
import pytest
import uvicorn

from service.app import create_app
from service.http.server import Server
from service.settings import Settings
from tests.service.conftest import running, until
from tests.service.fake import FakeEngine

pytestmark = pytest.mark.anyio

GENERATE = {"prompt": "感冒", "parameters": {"max_tokens": 100}}


async def test_while_loading_only_livez_is_green(engine: FakeEngine, settings: Settings) -> None:
    engine.hold.clear()
    async with running(engine, settings) as client:
        assert (await client.get("/livez")).status_code == 200
        assert (await client.get("/readyz")).status_code == 503
        assert (await client.get("/is_ready")).json() is False
        answer = await client.post("/generate", json=GENERATE)
        assert answer.status_code == 503
        assert answer.headers["retry-after"]
        engine.hold.set()
        await until(lambda: _is_ready(client))
        assert engine.finished == ["warm-up"], "ready before a token was generated"


async def _is_ready(client: httpx.AsyncClient) -> bool:
    return bool((await client.get("/is_ready")).json())


async def test_a_model_that_cannot_be_loaded_is_told(
    engine: FakeEngine, settings: Settings
) -> None:
    engine.load_error = RuntimeError("weights are missing")
    async with running(engine, settings) as client:

        async def dead() -> bool:
            return (await client.get("/livez")).status_code == 503

        await until(dead)
        assert "weights are missing" in (await client.get("/readyz")).json()["failure"]


async def test_info_and_version_tell_what_is_served(
    client: httpx.AsyncClient, settings: Settings
) -> None:
    info = (await client.get("/info")).json()
    assert info["model"] == "fake-model"
    assert re.fullmatch("[0-9a-f]{16}", info["fingerprint"])
    (settings.model / "config.json").write_text('{"of": "the next model"}')
    assert (await client.get("/info")).json()["fingerprint"] == info["fingerprint"]
    assert info["max_model_len"] == 200
    assert info["chat_template"] is True
    assert (await client.get("/version")).json()["vllm"] == "fake"
    assert (await client.get("/docs")).status_code == 200


class Running:
    """The app behind a real socket, as `python -m service` runs it."""

    def __init__(self, engine: FakeEngine, settings: Settings) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.server = Server(
            create_app(engine, settings), settings.model_copy(update={"port": port})
        )
        self.url = f"http://127.0.0.1:{port}"

    async def __aenter__(self) -> "Running":
        self._task = asyncio.create_task(uvicorn.Server.serve(self.server))
        self.client = httpx.AsyncClient(base_url=self.url, timeout=60)

        async def up() -> bool:
            try:
                return (await self.client.get("/readyz")).status_code == 200
            except httpx.ConnectError:
                return False

        await until(up)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.server.should_exit = True
        await self.client.aclose()
        await self._task

    async def ended(self) -> int:
        await asyncio.wait_for(asyncio.shield(self._task), 60)
        return self.server.exit_code


@pytest.mark.parametrize("prompt", ["感冒", ["感冒", "发烧"]])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_goes_away_aborts_its_request(
    engine: FakeEngine, settings: Settings, prompt: str | list[str], stream: bool
) -> None:
    engine.seconds_a_token = 0.05
    async with Running(engine, settings) as service:
        body = {**GENERATE, "prompt": prompt, "stream": stream}
        asked = asyncio.create_task(service.client.post("/generate", json=body))

        async def under_way() -> bool:
            return len(engine.requests) > len(engine.finished)

        await until(under_way)
        asked.cancel()

        async def aborted() -> bool:
            metrics = (await service.client.get("/metrics")).text
            count = 1 if isinstance(prompt, str) else len(prompt)
            return len(engine.aborted) == count and "in_flight 0.0" in metrics

        await until(aborted)


@pytest.mark.parametrize("prompt", ["感冒", ["感冒", "发烧"]])
async def test_an_abort_holds_for_a_request_that_the_engine_has_yet_to_take_in(
    engine: FakeEngine, settings: Settings, prompt: str | list[str]
) -> None:
    async with Running(engine, settings) as service:
        engine.seconds_to_take_in, engine.seconds_a_token = 0.2, 0.01
        parameters = {"request_id": "mine", "max_tokens": 20}
        body = {"prompt": prompt, "parameters": parameters}
        asked = asyncio.create_task(service.client.post("/generate", json=body))

        async def aborted() -> bool:
            answer = await service.client.post("/abort", json={"request_id": "mine"})
            return bool(answer.json()["aborted"])

        await until(aborted)
        answer = (await asked).json()
        results = [answer] if isinstance(prompt, str) else answer["results"]
        assert {result["finish_reason"] for result in results} == {"abort"}


async def test_sigterm_lets_requests_finish_and_refuses_new_ones(
    engine: FakeEngine, settings: Settings
) -> None:
    async with Running(engine, settings) as service:
        engine.seconds_a_token = 0.02
        asked = asyncio.create_task(service.client.post("/generate", json=GENERATE))

        async def under_way() -> bool:
            return len(engine.requests) == 2

        await until(under_way)
        service.server.handle_exit(15, None)
        refused = await service.client.post("/generate", json=GENERATE)
        assert refused.status_code == 503
        assert "draining" in refused.json()["error"]
        assert (await service.client.get("/readyz")).status_code == 503
        assert (await service.client.get("/livez")).status_code == 200
        assert (await asked).status_code == 200
        assert await service.ended() == 0


@pytest.mark.parametrize(("signals", "drain_timeout_s"), [(2, 60), (1, 0.3)])
async def test_a_second_signal_or_the_end_of_the_drain_gives_up_what_runs(
    engine: FakeEngine, settings: Settings, signals: int, drain_timeout_s: float
) -> None:
    settings.drain_timeout_s = drain_timeout_s
    async with Running(engine, settings) as service:
        engine.seconds_a_token = 100
        asked = asyncio.create_task(service.client.post("/generate", json=GENERATE))

        async def under_way() -> bool:
            return len(engine.requests) == 2

        await until(under_way)
        for _ in range(signals):
            service.server.handle_exit(15, None)
        assert (await asked).status_code == 503
        assert await service.ended() == 0


async def test_a_dead_engine_ends_the_process_with_1(
    engine: FakeEngine, settings: Settings
) -> None:
    async with Running(engine, settings) as service:
        engine.alive = False
        assert await service.ended() == 1
