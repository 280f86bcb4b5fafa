"""An engine without a model, for tests of the HTTP layer alone."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import replace
from typing import Any

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp

from service.adapter import Adapter
from service.engine.protocol import (
    Completion,
    GenerationRequest,
    Position,
    Step,
    Timing,
    TokenLogprob,
)
from service.errors import EngineDiedError, InvalidRequestError, ServiceError


class FakeEngine:
    """Answers each prompt with `max_tokens` times "好"; tests steer what happens on the way."""

    version = "fake"
    max_model_len = 200
    vocab_size = 4140
    dtype = "float32"
    dtype_reason = "a fake's"
    max_num_seqs = 256

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.requests: list[GenerationRequest] = []
        self.finished: list[str] = []
        self.aborted: list[str] = []
        self.alive = True
        self.stalled_s = 0.0
        self._failed = asyncio.Event()
        self._failure: ServiceError = EngineDiedError("the engine has died")
        self.abort_asked: set[str] = set()
        self.eos_token_ids = frozenset({2})
        self.seconds_a_token = 0.0
        self.seconds_to_take_in = 0.0
        self._taken_in: set[str] = set()
        self.hold = asyncio.Event()
        self.hold.set()
        self.load_error: Exception | None = None

    async def start(self) -> None:
        self._failed = asyncio.Event()  # of this event loop
        await self.hold.wait()
        if self.load_error:
            raise self.load_error

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Step]:
        self.requests.append(request)
        if request.sampling.get("bad_words") == ["refused by the engine"]:
            raise InvalidRequestError("the engine does not like it", "parameters.bad_words")
        try:
            await asyncio.sleep(self.seconds_to_take_in)
            self._taken_in.add(request.request_id)
            count, outputs = request.sampling["max_tokens"], request.sampling.get("n", 1)
            for position in range(count if request.stream else 1):
                await self._compute(self.seconds_a_token * (1 if request.stream else count))
                if not self.alive or self._failed.is_set():
                    raise self._failure
                last = not request.stream or position == count - 1
                size = 1 if request.stream else count
                aborted = request.request_id in self.abort_asked
                made = [self._output(i, size, last or aborted, request) for i in range(outputs)]
                if aborted:
                    made = [replace(one, finish_reason="abort") for one in made]
                yield Step(made, Timing(0.001, 0.002) if last or aborted else None)
                if aborted:
                    break
            self.finished.append(request.request_id)
        except (asyncio.CancelledError, GeneratorExit):
            self.aborted.append(request.request_id)
            raise

    async def abort(self, request_ids: list[str]) -> None:
        self.abort_asked.update(self._taken_in.intersection(request_ids))

    async def add_adapter(self, adapter: Adapter) -> None:
        if "broken" in adapter.name:
            raise InvalidRequestError("it does not fit", "path")

    async def remove_adapter(self, adapter: Adapter) -> None:
        pass

    async def openai_routes(self) -> ASGIApp:
        return PlainTextResponse("openai")

    def seconds_without_progress(self) -> float:
        return self.stalled_s

    def failure(self) -> ServiceError | None:
        return None if self.alive and not self._failed.is_set() else self._failure

    def fail(self, error: ServiceError) -> None:
        self._failure = error
        self._failed.set()

    def is_alive(self) -> bool:
        return self.alive

    def shutdown(self) -> None:
        pass

    async def _compute(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._failed.wait()

    def _output(self, index: int, size: int, last: bool, request: GenerationRequest) -> Completion:
        token = TokenLogprob(7, "好", -0.5)
        asked = request.sampling.get("logprobs")
        return Completion(
            index=index,
            text="好" * size,
            token_count=size,
            finish_reason="length" if last else None,
            logprobs=None if asked is None else [Position(token, [token])] * size,
        )
