import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.app import create_app
from service.settings import Settings
from tests.service.fake import FakeEngine


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "config.json").write_text("{}")
    return Settings(model=tmp_path, served_name="fake-model", max_body_bytes=100_000, max_prompts=8)


@pytest.fixture
def engine(tokenizer: Any) -> FakeEngine:
    return FakeEngine(tokenizer)


@asynccontextmanager
async def running(engine: FakeEngine, settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the real app in this process, started as a server would start it."""
    app = create_app(engine, settings)
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://service") as client,
    ):
        yield client


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait for `condition`, at most a minute."""
    async with asyncio.timeout(60):
        while not await condition():  # noqa: ASYNC110 - it has to be asked over HTTP
            await asyncio.sleep(0.01)


async def until_ready(client: httpx.AsyncClient) -> None:
    async def ready() -> bool:
        return (await client.get("/readyz")).status_code == 200

    await until(ready)


Talk = Callable[[httpx.AsyncClient], Coroutine[Any, Any, None]]


@pytest.fixture
def serve(engine: FakeEngine, settings: Settings) -> Callable[[Talk], None]:
    """Run a conversation with a ready service."""

    def run(talk: Talk) -> None:
        async def main() -> None:
            async with running(engine, settings) as client:
                await until_ready(client)
                await talk(client)

        asyncio.run(main())

    return run


@pytest.fixture
def ask(serve: Callable[[Talk], None]) -> Callable[..., httpx.Response]:
    """POST /generate with the given fields; the answer."""

    def post(**body: Any) -> httpx.Response:
        answers: list[httpx.Response] = []

        async def talk(client: httpx.AsyncClient) -> None:
            answers.append(await client.post("/generate", json=body))

        serve(talk)
        return answers[0]

    return post
