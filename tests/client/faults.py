"""Whatever may go wrong between client and server, put between them one request after another."""

from collections import deque
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Protocol

import httpx


class Fault(Protocol):
    """What becomes of one POST /generate."""

    async def strike(
        self, inner: httpx.AsyncBaseTransport, request: httpx.Request
    ) -> httpx.Response: ...


@dataclass(frozen=True)
class Answered:
    """A status in the server's place."""

    status: int
    retry_after: str | None = None

    async def strike(
        self, inner: httpx.AsyncBaseTransport, request: httpx.Request
    ) -> httpx.Response:
        headers = {} if self.retry_after is None else {"Retry-After": self.retry_after}
        return httpx.Response(self.status, headers=headers, text="not now", request=request)


@dataclass(frozen=True)
class Lost:
    """The connection, before anything is answered."""

    kind: type[httpx.TransportError]

    async def strike(
        self, inner: httpx.AsyncBaseTransport, request: httpx.Request
    ) -> httpx.Response:
        raise self.kind("lost", request=request)


@dataclass(frozen=True)
class Cut:
    """The stream, after a share of its bytes: ended as if whole, or with an error."""

    share: float
    error: bool

    async def strike(
        self, inner: httpx.AsyncBaseTransport, request: httpx.Request
    ) -> httpx.Response:
        answer, body = await _whole(inner, request)
        end = httpx.ReadError("cut", request=request) if self.error else None
        return _replaced(answer, [body[: int(len(body) * self.share)]], end)


@dataclass(frozen=True)
class Garbage:
    """Any bytes in the stream's place."""

    body: bytes

    async def strike(
        self, inner: httpx.AsyncBaseTransport, request: httpx.Request
    ) -> httpx.Response:
        return httpx.Response(200, content=self.body, request=request)


@dataclass(frozen=True)
class Mangled:
    """Events come in pieces of any size, several times, in another order, or some never."""

    size: int
    times: int
    backwards: bool
    every: int

    async def strike(
        self, inner: httpx.AsyncBaseTransport, request: httpx.Request
    ) -> httpx.Response:
        answer, body = await _whole(inner, request)
        if answer.status_code != httpx.codes.OK:
            return _replaced(answer, [body])
        *events, done = [each for each in body.split(b"\n\n") if each]
        kept = (events[::-1] if self.backwards else events)[:: self.every]
        text = b"\n\n".join([*kept * self.times, done, b""])
        return _replaced(answer, [text[i : i + self.size] for i in range(0, len(text), self.size)])


class FaultyTransport(httpx.AsyncBaseTransport):
    """Hands requests on to `inner`; each POST /generate meets the next of `faults`, if any."""

    def __init__(self, inner: httpx.AsyncBaseTransport, faults: Iterable[Fault]) -> None:
        self.inner = inner
        self.faults = deque(faults)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/generate" and self.faults:
            return await self.faults.popleft().strike(self.inner, request)
        return await self.inner.handle_async_request(request)

    async def aclose(self) -> None:
        await self.inner.aclose()


class _Pieces(httpx.AsyncByteStream):
    def __init__(self, pieces: list[bytes], end: Exception | None) -> None:
        self._pieces, self._end = pieces, end

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            yield piece
        if self._end:
            raise self._end


async def _whole(
    inner: httpx.AsyncBaseTransport, request: httpx.Request
) -> tuple[httpx.Response, bytes]:
    answer = await inner.handle_async_request(request)
    return answer, await answer.aread()


def _replaced(
    answer: httpx.Response, pieces: list[bytes], end: Exception | None = None
) -> httpx.Response:
    return httpx.Response(answer.status_code, stream=_Pieces(pieces, end))
