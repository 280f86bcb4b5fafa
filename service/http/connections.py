"""uvicorn's HTTP connections, bounded: how many there are, how long and how large a head may be.

uvicorn itself waits for ever for the rest of a request's head, and keeps all of it. What frames a
body (extensions of chunks, trailers) is bounded like a head: the limit for bodies cannot see it.
"""

import asyncio
from asyncio.events import TimerHandle
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MOST_BARE_BYTES = 64 * 1024  # that complete no head and bring no body


class BoundedConnection(HttpToolsProtocol):
    """Closed when its head does not arrive in time, is too large, or it is one too many."""

    def __init__(
        self, *args: Any, head_timeout_s: float, max_connections: int, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self._head_timeout_s = head_timeout_s
        self._max_connections = max_connections
        self._head_timer: TimerHandle | None = None
        self._bare_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the connection, or close it at once."""
        super().connection_made(transport)
        if len(self.connections) > self._max_connections:
            transport.close()
        else:
            self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self._forget_head()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse, and count what came since the last head or piece of a body."""
        self._bare_bytes += len(data)
        super().data_received(data)
        if self._bare_bytes > MOST_BARE_BYTES:
            self._close()

    def on_message_begin(self) -> None:
        """A further request on the same connection."""
        super().on_message_begin()
        if self._head_timer is None:
            self._expect_head()

    def on_headers_complete(self) -> None:
        """The head is there."""
        self._bare_bytes = 0
        self._forget_head()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A piece of it is there."""
        self._bare_bytes = 0
        super().on_body(body)

    def _expect_head(self) -> None:
        self._head_timer = self.loop.call_later(self._head_timeout_s, self._close)

    def _forget_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _close(self) -> None:
        self._forget_head()
        if not self.transport.is_closing():
            self.transport.close()
