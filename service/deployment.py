"""One engine and everything that guards it: what the routes work with."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from service.engine.protocol import Engine
from service.generation.adapter_registry import Adapters, Lease
from service.generation.admission import Admission, Ticket
from service.lifecycle import Lifecycle
from service.metrics import Metrics
from service.request_record import RequestRecord
from service.settings import Settings

ABORT_WITHIN_S, ABORT_AGAIN_S = 5.0, 0.02


@dataclass(frozen=True)
class Deployment:
    """Made once by create_app."""

    engine: Engine
    settings: Settings
    metrics: Metrics
    adapters: Adapters
    lifecycle: Lifecycle
    admission: Admission
    running: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    """Numbers of prompts by the engine's request id: a client may use one id twice at a time."""

    @contextmanager
    def request(
        self, record: RequestRecord | None, prompts: int, each: int, adapter: str | None
    ) -> Iterator["UnderWay"]:
        """A generation request under way, of so many prompts with `each` outputs or beams.

        With a record it can be aborted by its id.

        Raises UnavailableError, OverloadedError and InvalidRequestError.
        """
        with ExitStack() as at_end:
            at_end.enter_context(self.lifecycle.request())
            lease = self.adapters.lease(adapter)
            at_end.callback(lease.release)  # also where there is no place for the request
            entering = self.admission.enter(prompts, each, on_last=lease.release)
            ticket = at_end.enter_context(entering)
            if record is not None:
                at_end.enter_context(self._abortable(record.owner + record.request_id, prompts))
            yield UnderWay(ticket, lease)

    @contextmanager
    def _abortable(self, engine_id: str, prompts: int) -> Iterator[None]:
        self.running[engine_id].append(prompts)
        try:
            yield
        finally:
            self.running[engine_id].remove(prompts)
            if not self.running[engine_id]:
                del self.running[engine_id]

    async def abort(self, engine_id: str) -> int:
        """End a request in the engine; how many prompts that were. 0: no such request runs."""
        prompts = max(self.running.get(engine_id, [0]))
        ids = [engine_id, *item_ids(engine_id, prompts)]
        # more than once, since the engine passes over what has not reached it yet
        gives_up = time.monotonic() + ABORT_WITHIN_S
        while engine_id in self.running and time.monotonic() < gives_up:
            await self.engine.abort(ids)
            await asyncio.sleep(ABORT_AGAIN_S)
        return prompts


@dataclass(frozen=True)
class UnderWay:
    """What a request holds while it is under way."""

    ticket: Ticket
    lease: Lease


def item_ids(request_id: str, prompts: int) -> list[str]:
    """The engine's request ids for the prompts of a list."""
    return [f"{request_id}-{index}" for index in range(prompts)]
