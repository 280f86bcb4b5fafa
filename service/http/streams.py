"""Answers that a client may walk away from: the work for them stops when it does."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Sequence
from contextlib import aclosing
from typing import TypeVar

from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.types import Send

T = TypeVar("T")
EVENT_STREAM = "text/event-stream"
LINE_SEPARATORS = {"\u2028": "\\u2028", "\u2029": "\\u2029", "\x85": "\\u0085"}
"""Characters that many clients take for the end of a line, as Python's str.splitlines does."""
CLIENT_GONE = 499  # nginx's number for a client that closed its connection


class ClientGoneError(Exception):
    """The client closed the connection before its answer was ready."""


async def unless_gone(http: Request, work: Awaitable[T]) -> T:
    """The result of `work`, which is cancelled when the client goes away.

    Raises ClientGoneError then. The request's body must have been read before.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.create_task(_disconnected(http))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGoneError
        return task.result()
    finally:
        gone.cancel()
        if task.cancel():
            await asyncio.wait({task})


async def as_they_finish(tasks: Sequence[asyncio.Task[T]]) -> AsyncGenerator[list[T]]:
    """Results in the order in which the tasks end; those that end together come together.

    Raises what a task raises.
    """
    ended: asyncio.Queue[asyncio.Task[T]] = asyncio.Queue()
    for task in tasks:
        task.add_done_callback(ended.put_nowait)
    left = len(tasks)
    while left:
        some = [await ended.get()]
        while not ended.empty():
            some.append(ended.get_nowait())
        left -= len(some)
        yield [task.result() for task in some]


class EventStream(StreamingResponse):
    """Server-sent events; closes its source however the response ends, so that it hears at once.

    The first event is taken before: what fails until then can still be answered with a status.
    """

    def __init__(self, first: bytes, rest: AsyncGenerator[bytes]) -> None:
        self._source = rest
        super().__init__(_chain(first, rest), media_type=EVENT_STREAM)

    async def stream_response(self, send: Send) -> None:
        """Send everything, or stop with the client."""
        async with aclosing(self._source):
            await super().stream_response(send)


async def _chain(first: bytes, rest: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    yield first
    async for event in rest:
        yield event


async def _disconnected(http: Request) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass
