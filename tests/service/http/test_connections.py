"""Connections on real sockets: a slow, silent or greedy client takes nothing from the others."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from service.app import create_app
from service.http.connections import MOST_PIPELINED, RESERVED
from service.http.server import Server
from service.settings import Settings
from tests.service.conftest import until_ready
from tests.service.fake import FakeEngine

pytestmark = pytest.mark.anyio
GET = b"GET /%b HTTP/1.1\r\nHost: x\r\n\r\n"
WITHIN_S = 20


@asynccontextmanager
async def served(engine: FakeEngine, settings: Settings) -> AsyncIterator[int]:
    """The port of a real server in this process."""
    settings.port = 0
    server = Server(create_app(engine, settings), settings)
    serving = asyncio.create_task(server.serve())
    try:
        while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:
            await until_ready(http)
        yield port
    finally:
        server.should_exit = True
        await serving


async def connect(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", port)


async def status(port: int, path: str) -> int:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=WITHIN_S) as http:
        return (await http.get(path)).status_code


def _sent(connection: socket.socket, data: bytes) -> bool:
    """False once the server has cut the connection off."""
    try:
        connection.send(data)
    except BlockingIOError:
        pass
    except ConnectionError:
        return False
    return True


async def ends(reader: asyncio.StreamReader) -> bytes:
    """What still comes until the server closes."""
    async with asyncio.timeout(WITHIN_S):
        try:
            return await reader.read()
        except ConnectionError:
            return b""


@pytest.mark.parametrize("idle_after_an_answer", [False, True])
async def test_the_longest_idle_connection_makes_room_for_a_new_one(
    engine: FakeEngine, settings: Settings, idle_after_an_answer: bool
) -> None:
    settings.max_connections = 8
    async with served(engine, settings) as port:
        idle = [await connect(port) for _ in range(8)]
        if idle_after_an_answer:
            for reader, writer in idle:
                writer.write(GET % b"livez")
                await reader.readuntil(b"}")
        new = [await connect(port) for _ in range(3)]
        for reader, writer in idle[3:] + new:
            writer.write(GET % b"version")
            assert (await reader.readline()).split()[1] == b"200"
        assert [await ends(reader) for reader, _ in idle[:3]] == [b""] * 3
        for _, writer in idle + new:
            writer.close()


async def test_probes_get_through_when_all_connections_are_at_work(
    engine: FakeEngine, settings: Settings
) -> None:
    settings.max_connections = 4
    body = b'{"prompt": '
    head = b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    async with served(engine, settings) as port:
        busy = [await connect(port) for _ in range(4)]
        for _, writer in busy:
            writer.write(head + b"Content-Length: 100\r\n\r\n" + body)
        await asyncio.sleep(0.2)
        assert await status(port, "/livez") == 200
        assert await status(port, "/readyz") == 200
        assert await status(port, "/version") == 503
        spare = [await connect(port) for _ in range(3 * RESERVED)]  # which ask nothing
        assert await status(port, "/livez") == 200
        for _, writer in busy + spare:
            writer.close()


@pytest.mark.parametrize("requests", [1, MOST_PIPELINED])
async def test_a_client_that_reads_no_answer_is_cut_off(
    engine: FakeEngine, settings: Settings, requests: int
) -> None:
    settings.write_timeout_s = 0.5
    settings.keep_alive_timeout_s = 1
    async with served(engine, settings) as port:
        with socket.socket() as greedy:
            greedy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            greedy.setblocking(False)
            await asyncio.get_running_loop().sock_connect(greedy, ("127.0.0.1", port))
            async with asyncio.timeout(WITHIN_S):
                while _sent(greedy, GET % b"page/main.js" * requests):  # noqa: ASYNC110
                    await asyncio.sleep(0.002)
        assert await status(port, "/livez") == 200


async def test_more_requests_in_advance_than_are_bounded_close_the_connection(
    engine: FakeEngine, settings: Settings
) -> None:
    async with served(engine, settings) as port:
        reader, writer = await connect(port)
        writer.write(GET % b"livez" * 5000)
        assert (await ends(reader)).count(b"HTTP/1.1 200") <= MOST_PIPELINED + 1
        writer.close()
        assert await status(port, "/livez") == 200


async def test_an_idle_connection_is_kept_as_long_as_the_setting_says(
    engine: FakeEngine, settings: Settings
) -> None:
    settings.keep_alive_timeout_s = 1
    async with served(engine, settings) as port:
        reader, writer = await connect(port)
        writer.write(GET % b"livez")
        await reader.readuntil(b"}")
        started = asyncio.get_running_loop().time()
        assert await ends(reader) == b""
        assert asyncio.get_running_loop().time() - started > 0.9
        writer.close()


def test_an_idle_connection_outlives_those_of_common_proxies(settings: Settings) -> None:
    assert settings.keep_alive_timeout_s >= 75
