"""One engine and everything that guards it: what the routes work with."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from service.engine.protocol import Engine
from service.generation.adapter_registry import Adapters
from service.generation.admission import Admission, Ticket
from service.lifecycle import Lifecycle
from service.metrics import Metrics
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
    """Numbers of prompts by request id: a client may use one id twice at a time."""

    @contextmanager
    def request(self, request_id: str, prompts: int) -> Iterator[Ticket]:
        """A generation request under way. Raises UnavailableError or OverloadedError."""
        with self.lifecycle.request(), self.admission.enter(prompts) as ticket:
            self.running[request_id].append(prompts)
            try:
                yield ticket
            finally:
                self.running[request_id].remove(prompts)
                if not self.running[request_id]:
                    del self.running[request_id]

    async def abort(self, request_id: str) -> int:
        """End a request in the engine; how many prompts that were. 0: no such request runs."""
        prompts = max(self.running.get(request_id, [0]))
        ids = [request_id, *item_ids(request_id, prompts)]
        # more than once, since the engine passes over what has not reached it yet
        gives_up = time.monotonic() + ABORT_WITHIN_S
        while request_id in self.running and time.monotonic() < gives_up:
            await self.engine.abort(ids)
            await asyncio.sleep(ABORT_AGAIN_S)
        return prompts


def item_ids(request_id: str, prompts: int) -> list[str]:
    """The engine's request ids for the prompts of a list."""
    return [f"{request_id}-{index}" for index in range(prompts)]
