"""uvicorn's HTTP connections, bounded: how many there are, how long and how large a head may be.

uvicorn itself waits for ever for the rest of a request's head, and for a client to read its
answer, and keeps all of both. What frames a body (extensions of chunks, trailers) is bounded like
a head: the limit for bodies cannot see it.
"""

import asyncio
from asyncio.events import TimerHandle
from dataclasses import dataclass
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MOST_BARE_BYTES = 64 * 1024  # that complete no head and bring no body
MOST_PIPELINED = 16
"""Requests that a connection may send before it has the answer to the first."""
RESERVED = 64
"""Connections beyond the limit, for probes alone: they tell a busy server from a dead one."""
PROBES_ONLY = "mergeline.probes_only"
"""Member of an ASGI scope: true on such a connection."""


@dataclass(frozen=True)
class ConnectionLimits:
    """Seconds, and a number of connections."""

    head_timeout_s: float
    write_timeout_s: float
    max_connections: int


class BoundedConnection(HttpToolsProtocol):
    """Closed when its head or its reader is too slow, its head too large, or it is one too many.

    Beyond the limit the connection that has been idle for longest makes room. Where none is idle,
    a few more are taken for probes.
    """

    def __init__(self, *args: Any, limits: ConnectionLimits, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._limits = limits
        self._head_timer: TimerHandle | None = None
        self._write_timer: TimerHandle | None = None
        self._bare_bytes = 0
        self._unread = 0
        self.idle_since = 0.0
        """When its last answer was written, in the event loop's time."""
        self._probes_only = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the connection, or close it at once."""
        super().connection_made(transport)
        self.idle_since = self.loop.time()
        beyond = len(self.connections) - self._limits.max_connections
        if beyond > 0 and self._close_oldest_idle():
            beyond -= 1
        if beyond > RESERVED:
            self._close()
        else:
            self._probes_only = beyond > 0
            self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self._cancel_head_timer()
        self._cancel_write_timer()
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
        """The head is there. Raises ValueError, which closes the connection, for one too many."""
        self._bare_bytes = 0
        self._cancel_head_timer()
        if self._probes_only:
            cast(dict[str, Any], self.scope)[PROBES_ONLY] = True
        super().on_headers_complete()
        if len(self.pipeline) > MOST_PIPELINED:
            raise ValueError(f"more than {MOST_PIPELINED} requests wait on one connection")

    def on_body(self, body: bytes) -> None:
        """A piece of it is there."""
        self._bare_bytes = 0
        super().on_body(body)

    def on_response_complete(self) -> None:
        """The answer is written, though perhaps not read."""
        super().on_response_complete()
        self.idle_since = self.loop.time()
        if self.transport.is_closing():
            self._abort_later()

    def timeout_keep_alive_handler(self) -> None:
        """No further request came in time."""
        self._close()

    def pause_writing(self) -> None:
        """The client reads more slowly than it is written to."""
        super().pause_writing()
        self._abort_later()

    def resume_writing(self) -> None:
        """It has read on."""
        self._cancel_write_timer()
        super().resume_writing()

    def _close_oldest_idle(self) -> bool:
        others = cast(set[BoundedConnection], self.connections - {self})
        idle = min(filter(_is_idle, others), key=_idle_since, default=None)
        if idle is not None:
            idle._drop()
        return idle is not None

    def _expect_head(self) -> None:
        self._head_timer = self.loop.call_later(self._limits.head_timeout_s, self._close)

    def _abort_later(self) -> None:
        """Closing alone waits until all that was written has been read."""
        if self._write_timer is None:
            self._unread = self.transport.get_write_buffer_size()
            timeout = self._limits.write_timeout_s
            self._write_timer = self.loop.call_later(timeout, self._abort_unless_read)

    def _abort_unless_read(self) -> None:
        self._write_timer = None
        if self.transport.get_write_buffer_size() < self._unread:
            self._abort_later()  # it reads, if slowly
        else:
            self.transport.abort()

    def _cancel_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _cancel_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _close(self) -> None:
        self._cancel_head_timer()
        if not self.transport.is_closing():
            self.transport.close()
        self._abort_later()

    def _drop(self) -> None:
        """Close at once, and leave the room to another."""
        self.connections.discard(self)
        self.transport.abort()


def _is_idle(connection: BoundedConnection) -> bool:
    cycle = connection.cycle
    if connection.pipeline or connection.transport.get_write_buffer_size():
        return False
    return cycle is None or cycle.response_complete


def _idle_since(connection: BoundedConnection) -> float:
    return connection.idle_since
