"""The real app with an engine that says what it was asked, in this process or at a socket."""

import asyncio
import hashlib
import threading
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI

from service.app import create_app
from service.engine.protocol import Completion, GenerationRequest, Step
from service.generation.prompt import PromptEncoder
from service.lifecycle import State
from service.settings import Settings
from tests.service.fake import FakeEngine


def answer_to(ids: Sequence[int]) -> str:
    """Another for every prompt, and the same each time."""
    return hashlib.sha256(repr(list(ids)).encode()).hexdigest()[:12]


def expected(tokenizer: Any, prompt: str) -> str:
    return answer_to(PromptEncoder(tokenizer).encode(prompt))


class EchoEngine(FakeEngine):
    @property
    def asked(self) -> int:
        """Prompts of clients; the service asks for one itself when it starts."""
        return sum(request.request_id != "warm-up" for request in self.requests)

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Step]:
        self.requests.append(request)
        await asyncio.sleep(0)
        yield Step([Completion(0, answer_to(request.prompt_ids), 3, "stop")])


def echo_app(engine: EchoEngine, folder: Path) -> FastAPI:
    model = folder / "model"
    model.mkdir(exist_ok=True)
    (model / "config.json").write_text("{}")
    return create_app(engine, Settings(model=model, served_name="echo"))


class AppTransport(httpx.AsyncBaseTransport):
    """Starts the app with the first request, in its event loop, and waits until it is ready."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        self._life: AbstractAsyncContextManager[Any] | None = None
        self._starting = asyncio.Lock()
        self._inner = httpx.ASGITransport(app=app)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        async with self._starting:
            if self._life is None:
                self._life = self._app.router.lifespan_context(self._app)
                await self._life.__aenter__()
                while self._app.state.lifecycle.state != State.READY:  # noqa: ASYNC110
                    await asyncio.sleep(0.001)
        return await self._inner.handle_async_request(request)

    async def aclose(self) -> None:
        if self._life is not None:
            await self._life.__aexit__(None, None, None)


@contextmanager
def at_a_socket(app: FastAPI) -> Iterator[str]:
    """The app behind uvicorn in a thread; its URL."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        url = f"http://127.0.0.1:{port}"
        while httpx.get(url + "/readyz").status_code != httpx.codes.OK:
            time.sleep(0.01)
        yield url
    finally:
        server.should_exit = True
        thread.join(30)
