"""From loading to ready to draining, or dead: the one place that knows the service's state."""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from enum import StrEnum

from starlette.types import ASGIApp

from service.engine.fingerprint import fingerprint
from service.engine.protocol import Engine, GenerationRequest
from service.errors import ENGINE_GONE, NO_TIME, EngineDiedError, UnavailableError
from service.generation.adapter_registry import Adapters
from service.generation.prompt import PromptEncoder
from service.metrics import Metrics
from service.settings import Settings

logger = logging.getLogger("mergeline")
WATCH_EVERY_S = 0.5


class State(StrEnum):
    """What the service can do now."""

    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"
    DEAD = "dead"


@dataclass(frozen=True)
class Ready:
    """What there is once the model is loaded."""

    fingerprint: str
    """Of the model's files, read while they are loaded: they may be others later."""
    encoder: PromptEncoder
    openai_routes: ASGIApp
    """The engine's own."""


class Lifecycle:
    """Starts the engine, watches it, and counts the requests that a drain has to wait for."""

    def __init__(
        self, engine: Engine, adapters: Adapters, metrics: Metrics, settings: Settings
    ) -> None:
        self._engine = engine
        self._adapters = adapters
        self._metrics = metrics
        self._model = settings.model
        self._stall_timeout_s = settings.stall_timeout_s
        self.in_flight = 0
        self.failure: str | None = None
        self._ready: Ready | None = None
        self._enter(State.LOADING)

    async def run(self) -> None:
        """Load, generate one token, then watch until the engine dies."""
        try:
            reading = asyncio.to_thread(fingerprint, self._model)
            digest, _ = await asyncio.gather(reading, self._engine.start())
            encoder = PromptEncoder(self._engine.tokenizer, self._engine.max_model_len)
            await self._adapters.load_first()
            self._ready = Ready(digest, encoder, await self._engine.openai_routes())
            await self._generate_one_token(encoder)
        except Exception as error:  # whatever it was, the process must end and say so
            _log(error)
            self._die(f"the model could not be loaded: {error}")
            return
        if self.state is State.LOADING:
            self._enter(State.READY)
        while self._engine.is_alive():
            stalled = self._engine.seconds_without_progress()
            if stalled > self._stall_timeout_s:
                self._die(f"the engine gave no token for {stalled:.0f} s: it is given up")
                self._engine.fail(EngineDiedError(ENGINE_GONE))
                return
            await asyncio.sleep(WATCH_EVERY_S)
        self._die("the engine has died")

    def drain(self) -> None:
        """Take no new request; those in flight go on."""
        if self.state is not State.DEAD:
            self._enter(State.DRAINING)

    def give_up(self) -> None:
        """Answer the requests in flight with UnavailableError: another replica may take them."""
        if self.in_flight:
            self._engine.fail(UnavailableError(NO_TIME))

    def require_ready(self) -> Ready:
        """What requests are served with. Raises UnavailableError while loading, draining, dead."""
        if self._ready is None or self.state is not State.READY:
            self._metrics.rejections.labels("unavailable").inc()
            raise UnavailableError(f"the service is {self.state}")
        if not self._engine.is_alive():  # which the watch will find within half a second
            self._metrics.rejections.labels("unavailable").inc()
            raise UnavailableError(ENGINE_GONE)
        return self._ready

    def longest_text(self) -> int | None:
        """Most bytes of JSON that a text may have and still fit into the model; None: not known."""
        return None if self._ready is None else self._ready.encoder.most_bytes

    @contextmanager
    def request(self) -> Iterator[None]:
        """Hold a generation request in flight. Raises UnavailableError unless ready."""
        self.require_ready()
        self.in_flight += 1
        self._metrics.in_flight.set(self.in_flight)
        try:
            yield
        finally:
            self.in_flight -= 1
            self._metrics.in_flight.set(self.in_flight)

    async def _generate_one_token(self, encoder: PromptEncoder) -> None:
        sampling = {"max_tokens": 1, "temperature": 0.0}
        ids = encoder.encode("1")
        request = GenerationRequest("warm-up", ids, sampling)
        async with aclosing(self._engine.generate(request)) as steps:
            async for _ in steps:
                pass

    def _die(self, reason: str) -> None:
        logger.error("%s", reason)
        self.failure = reason
        self._enter(State.DEAD)

    def _enter(self, state: State) -> None:
        self.state = state
        logger.info("state: %s", state)
        for each in State:
            self._metrics.state.labels(each).set(each is state)


def _log(error: Exception) -> None:
    """Where it was raised, too; but a ValueError is about settings or files, and says it all."""
    level = logging.DEBUG if isinstance(error, ValueError) else logging.ERROR
    logger.log(level, "the model could not be loaded", exc_info=error)
