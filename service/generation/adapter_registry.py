"""The adapters that are served now: loaded and unloaded while requests run."""

import asyncio
import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from service.adapter import Adapter, rank_of
from service.engine.fingerprint import fingerprint
from service.engine.protocol import Engine
from service.errors import InvalidRequestError, NotFoundError
from service.model_directory.template import refuse_other_template
from service.settings import Settings

LOOK_S = 0.02


class Lease:
    """Keeps an adapter loaded until the prompts of one request are all in the engine.

    From then on the engine itself knows that it is used: a client that does not read its answer
    must not hold up an administrator.
    """

    def __init__(self, adapter: Adapter | None, leases: Counter[str]) -> None:
        self.adapter = adapter
        self._leases = leases
        self._held = adapter is not None
        if adapter is not None:
            leases[adapter.name] += 1

    def release(self) -> None:
        """Let go; again is harmless."""
        if self._held and self.adapter is not None:
            self._leases[self.adapter.name] -= 1
        self._held = False


class Adapters:
    """The adapters that requests may name now. Changes go one at a time."""

    def __init__(self, settings: Settings, engine: Engine) -> None:
        self._first = settings.first_adapters
        self._slots = settings.adapter_slots
        self._rank = settings.lora_rank
        self._engine = engine
        self._model, self._directory = settings.model_name, settings.model
        self._by_name: dict[str, Adapter] = {}
        self._numbers = itertools.count(1)
        self._leases: Counter[str] = Counter()
        self._change = asyncio.Lock()

    @property
    def names(self) -> list[str]:
        """In the order in which they were loaded."""
        return list(self._by_name)

    def __iter__(self) -> Iterator[Adapter]:
        return iter(list(self._by_name.values()))

    def lease(self, name: str | None) -> "Lease":
        """Hold the adapter of that name, None for the model itself. Raises InvalidRequestError."""
        if name is None:
            return Lease(None, self._leases)
        if name not in self._by_name:
            raise InvalidRequestError(
                f"no adapter {name!r} is served here (known: {', '.join(self.names) or 'none'})",
                "parameters.adapter",
            )
        return Lease(self._by_name[name], self._leases)

    async def load_first(self) -> None:
        """Load those of the settings. Raises InvalidRequestError."""
        for adapter in self._first:
            await self.load(adapter.name, adapter.path)

    async def load(self, name: str, path: Path) -> Adapter:
        """Load an adapter while requests run. Raises InvalidRequestError."""
        async with self._change:
            self._refuse_name(name)
            adapter = Adapter(name, path, next(self._numbers))
            try:
                rank = rank_of(adapter)
                refuse_other_template(self._directory, path)
                digest = await asyncio.to_thread(fingerprint, path)
            except (ValueError, OSError) as error:
                raise InvalidRequestError(str(error), "path") from error
            if rank > self._rank:
                raise InvalidRequestError(
                    f"adapter {name} has rank {rank}, max_adapter_rank is {self._rank}", "path"
                )
            adapter = replace(adapter, fingerprint=digest)
            await self._engine.add_adapter(adapter)
            self._by_name[name] = adapter
            return adapter

    def _refuse_name(self, name: str) -> None:
        if name == self._model:
            raise InvalidRequestError(f"the model itself is called {name}", "name")
        if name in self._by_name:
            raise InvalidRequestError(f"an adapter {name} is served: unload it first", "name")
        if len(self._by_name) >= self._slots:
            raise InvalidRequestError(
                f"{self._slots} adapters are served, and there is room for no more: unload one, or "
                "start with a larger max_adapters",
                "name",
            )

    async def unload(self, name: str) -> None:
        """Refuse new requests for it at once; return when the running ones have ended."""
        async with self._change:
            if name not in self._by_name:
                raise NotFoundError(f"no adapter {name!r} is served here")
            adapter = self._by_name.pop(name)
            while self._leases[name]:  # noqa: ASYNC110 - there is no event
                await asyncio.sleep(LOOK_S)
            await self._engine.remove_adapter(adapter)
