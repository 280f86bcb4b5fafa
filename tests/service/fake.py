"""An engine without a model, for tests of the HTTP layer alone."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from service.backend import Completion, GenerationRequest, Position, TokenLogprob
from service.errors import InvalidRequestError, UnavailableError


class FakeEngine:
    """Answers each prompt with `max_tokens` times "好"; tests steer what happens on the way."""

    version = "fake"
    max_model_len = 200
    vocab_size = 4140
    dtype = "float32"

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.requests: list[GenerationRequest] = []
        self.finished: list[str] = []
        self.aborted: list[str] = []
        self.alive = True
        self.seconds_a_token = 0.0
        self.hold = asyncio.Event()
        self.hold.set()
        self.load_error: Exception | None = None

    async def start(self) -> None:
        await self.hold.wait()
        if self.load_error:
            raise self.load_error

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[list[Completion]]:
        self.requests.append(request)
        if request.sampling.get("bad_words") == ["refused by the engine"]:
            raise InvalidRequestError("the engine does not like it", "parameters.bad_words")
        try:
            count, outputs = request.sampling["max_tokens"], request.sampling.get("n", 1)
            for position in range(count if request.stream else 1):
                await asyncio.sleep(self.seconds_a_token * (1 if request.stream else count))
                if not self.alive:
                    raise UnavailableError("the engine has died")
                last = not request.stream or position == count - 1
                size = 1 if request.stream else count
                yield [self._output(index, size, last, request) for index in range(outputs)]
            self.finished.append(request.request_id)
        except (asyncio.CancelledError, GeneratorExit):
            self.aborted.append(request.request_id)
            raise

    def is_alive(self) -> bool:
        return self.alive

    def shutdown(self) -> None:
        pass

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
