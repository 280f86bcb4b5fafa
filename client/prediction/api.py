"""The service over HTTP: wait until it is ready, send lists of prompts, read the answers."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any, NamedTuple, Self

import httpx

from client.errors import InputError, RefusedError, ServerGoneError, TransientError
from client.prediction.events import ENGINE_DIED, EventReader, Item, describe

Transport = httpx.AsyncBaseTransport | None
_POLL_S = 1.0
_NOTE_EVERY_S = 10.0
_PROBE_TIMEOUT_S = 10.0


class Served(NamedTuple):
    """A model by its name; the fingerprints tell it from another of that name.

    They are of the model's files, of the parameters that hold where a request sets none, and of
    the adapters that this run asks for. None: an older service, which does not tell.
    """

    model: str
    fingerprint: str | None = None
    default_parameters: str | None = None
    adapter_files: dict[str, str] | None = None

    def __str__(self) -> str:
        return f"{self.model} ({self.fingerprint})" if self.fingerprint else self.model


class Api:
    """One server; `timeout` is the longest silence, in seconds, within an answer.

    `transport` takes the place of the network, for an app in the same process. `adapters` are
    those that requests will name.
    """

    def __init__(
        self,
        url: str,
        api_key: str | None,
        timeout: float,
        connections: int,
        transport: Transport,
        adapters: frozenset[str] = frozenset(),
    ) -> None:
        self.url = _check_url(url)
        self._adapters = adapters
        self._http = httpx.AsyncClient(
            base_url=self.url,
            headers=_authorization(api_key),
            timeout=httpx.Timeout(timeout, connect=_PROBE_TIMEOUT_S, pool=None),
            limits=httpx.Limits(max_connections=connections + 1),
            transport=transport,
            # reading the system's certificates takes as long as a row
            verify=self.url.startswith("https:"),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def wait_ready(self, patience: float, note: Callable[[str], None]) -> Served:
        """Poll until the server can answer; return its model.

        `note` hears now and then what is being waited for. Raises ServerGoneError after `patience`
        seconds, RefusedError when the server will never let us in.
        """
        clock = asyncio.get_running_loop().time
        deadline, next_note = clock() + patience, clock()
        while True:
            try:
                return await self.served()
            except TransientError as problem:
                reason = str(problem)
            if clock() >= deadline:
                raise ServerGoneError(f"{self.url} was not ready within {patience:g} s: {reason}")
            if clock() >= next_note:
                note(f"waiting for {self.url}: {reason}")
                next_note = clock() + _NOTE_EVERY_S
            await asyncio.sleep(_POLL_S)

    async def served(self) -> Served:
        """Name the model of a ready server; TransientError while it is not ready."""
        await self._get("/readyz")
        response = await self._get("/info")
        try:
            return self._served(response.json())
        except (ValueError, LookupError, TypeError, AttributeError):
            raise RefusedError(
                f"{response.url} names no model: is this the URL of a mergeline service?"
            ) from None

    def _served(self, info: dict[str, Any]) -> Served:
        parts = info.get("fingerprints")
        if parts is None:
            return Served(str(info["model"]), info.get("fingerprint"))
        adapters = {name: parts["adapters"].get(name) for name in sorted(self._adapters)}
        return Served(str(info["model"]), parts["model"], parts["parameters"], adapters)

    async def is_away(self) -> bool:
        """Whether the server is gone, or has no engine."""
        try:
            await self._get("/readyz")
        except TransientError:
            return True
        return False

    async def generate_stream(
        self, prompts: Sequence[str], parameters: dict[str, Any]
    ) -> AsyncGenerator[Item, None]:
        """Send one list; yield each prompt's outcome as it finishes, in any order.

        Raises RefusedError when the server will never accept the list, TransientError otherwise.
        """
        body = {"prompt": list(prompts), "parameters": parameters, "stream": True}
        reader = EventReader()
        try:
            async with self._http.stream("POST", "/generate", json=body) as response:
                await _raise_unless_ok(response)
                async for chunk in response.aiter_bytes():
                    for item in reader.feed(chunk):
                        yield item
        except httpx.RequestError as problem:
            raise _transient(problem) from problem
        if not reader.done:
            raise TransientError("the stream ended before [DONE]", lost=True)

    async def _get(self, path: str) -> httpx.Response:
        try:
            response = await self._http.get(path, timeout=_PROBE_TIMEOUT_S)
        except httpx.RequestError as problem:
            raise _transient(problem) from problem
        await _raise_unless_ok(response)
        return response


async def first_ready(apis: Sequence[Api], patience: float, note: Callable[[str], None]) -> Served:
    """Wait for any of the servers; return its model.

    Raises ServerGoneError when none was ready within `patience` seconds, RefusedError when one
    will never let us in.
    """
    waits = [asyncio.create_task(api.wait_ready(patience, note)) for api in apis]
    try:
        for wait in asyncio.as_completed(waits):
            try:
                return await wait
            except ServerGoneError as problem:
                last = problem
        raise last
    finally:
        for each in waits:
            each.cancel()


def _check_url(url: str) -> str:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as problem:
        raise InputError(f"--url {url}: {problem}") from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise InputError(f"--url {url}: expected something like http://localhost:8000")
    return url.rstrip("/")


def _authorization(api_key: str | None) -> dict[str, str]:
    if not api_key:
        return {}
    if not (api_key.isascii() and api_key.isprintable()):
        raise InputError("the API key holds characters that no header can carry")
    return {"Authorization": f"Bearer {api_key}"}


def _transient(problem: httpx.RequestError) -> TransientError:
    never_sent = isinstance(problem, httpx.ConnectError | httpx.ConnectTimeout)
    silent = isinstance(problem, httpx.ReadTimeout)
    message = str(problem) or type(problem).__name__
    lost = isinstance(problem, httpx.NetworkError | httpx.RemoteProtocolError) and not never_sent
    return TransientError(message, counts=not never_sent, overloaded=silent, lost=lost)


async def _raise_unless_ok(response: httpx.Response) -> None:
    if response.status_code == httpx.codes.OK:
        return
    await response.aread()
    status = response.status_code
    message = f"{response.url} answered {status}: {_reason(response)}"
    if status in (429, 503):
        wait = _retry_after(response)
        raise TransientError(message, retry_after=wait, counts=False, overloaded=status == 429)
    if status >= 500:
        died = ENGINE_DIED in response.text
        raise TransientError(message, overloaded=status == 504, died=died)
    raise RefusedError(message)


def _reason(response: httpx.Response) -> str:
    try:
        body = response.json()
    except ValueError:
        return response.text[:200] or response.reason_phrase
    return describe(body) if isinstance(body, dict) else str(body)[:200]


def _retry_after(response: httpx.Response) -> float | None:
    try:
        return max(0.0, float(response.headers.get("Retry-After", "")))
    except ValueError:
        return None  # absent, or a date: our own back-off is good enough
