"""One HTTP/1.1 connection by hand: a client that does what a well-behaved library would not."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from tests.server import ServerProcess

ANSWERED_WITHIN_S = 120


def head(path: str, *lines: str) -> bytes:
    """A POST's request line and headers, without the empty line that ends them."""
    return "\r\n".join([f"POST {path} HTTP/1.1", "Host: service", *lines, ""]).encode()


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


@dataclass
class Connection:
    """The bytes that go and come."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> bool:
        """False when the server has closed the connection."""
        try:
            self.writer.write(data)
            await self.writer.drain()
        except ConnectionError:
            return False
        return not self.reader.at_eof()

    async def post(self, path: str, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        lines = ("Content-Type: application/json", f"Content-Length: {len(data)}")
        await self.send(head(path, *lines) + b"\r\n" + data)

    async def status(self) -> int | None:
        """The answer's; None when there is none and the connection is closed."""
        line = await self._read(self.reader.readline())
        return int(line.split()[1]) if line else None

    async def until(self, mark: bytes) -> bytes:
        """What the server sends, up to `mark`."""
        return await self._read(self.reader.readuntil(mark))

    async def rest(self) -> bytes:
        """All that the server still sends before it closes."""
        return await self._read(self.reader.read())

    async def _read(self, reading: Any) -> bytes:
        try:
            async with asyncio.timeout(ANSWERED_WITHIN_S):
                data: bytes = await reading
                return data
        except ConnectionError:
            return b""


@asynccontextmanager
async def connected(server: ServerProcess) -> AsyncIterator[Connection]:
    """A connection that is cut at the end, without a goodbye."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        yield Connection(reader, writer)
    finally:
        writer.transport.abort()
