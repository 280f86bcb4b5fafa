import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.app import create_app
from service.settings import Settings
from tests.service.fake import FakeEngine

Ask = Callable[..., Awaitable[httpx.Response]]


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


@asynccontextmanager
async def ready(engine: FakeEngine, settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a service that is ready."""
    async with running(engine, settings) as client:
        await until_ready(client)
        yield client


@pytest.fixture
async def client(engine: FakeEngine, settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """Of a service that is ready; for asynchronous tests."""
    async with ready(engine, settings) as client:
        yield client


@pytest.fixture
def ask(client: httpx.AsyncClient) -> Ask:
    """POST /generate with the given fields."""

    def post(**body: Any) -> Awaitable[httpx.Response]:
        return client.post("/generate", json=body)

    return post
