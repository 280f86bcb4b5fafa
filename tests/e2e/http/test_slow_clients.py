"""Clients that send too slowly, too much or without end take nothing from the others."""

import asyncio
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from itertools import repeat
from pathlib import Path
from typing import TypeVar

import httpx
import pytest

from tests.e2e.conftest import BODY_TIMEOUT_S, HEAD_TIMEOUT_S
from tests.e2e.http.connection import Connection, chunk, connected, head
from tests.server import ServerProcess

LATE_S = 60  # what a busy machine may add; else they would send for ever
PIECE = b"a" * 2**16
HUGE = 100 * 2**20
FLAT = 64 * 2**20
T = TypeVar("T")
JSON = "Content-Type: application/json"
CHUNKED = head("/generate", JSON, "Transfer-Encoding: chunked") + b"\r\n"
DECLARED = head("/generate", JSON, f"Content-Length: {HUGE}") + b"\r\n"


@pytest.mark.anyio
async def test_heads_that_come_a_byte_a_second_are_cut_off_and_others_served(
    bounded: ServerProcess,
) -> None:
    times = await _drip_heads(bounded, 200)
    assert min(times) > HEAD_TIMEOUT_S - 0.5
    assert max(times) < HEAD_TIMEOUT_S + LATE_S


async def _drip_heads(server: ServerProcess, clients: int) -> list[float]:
    """Seconds that each connection lasted."""

    async def drip() -> float:
        opened = time.monotonic()
        async with connected(server) as one:
            slow = asyncio.create_task(_drip(one, head("/generate") + b"X-Slow: ", b"a", 1.0))
            assert await one.rest() == b""
            slow.cancel()
            return time.monotonic() - opened

    drips = asyncio.gather(*(drip() for _ in range(clients)))
    served = 0
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as http:
        while not drips.done():
            body = {"prompt": "感冒", "parameters": {"max_tokens": 1}}
            assert (await http.post("/generate", json=body)).status_code == 200
            served += 1
    assert served >= 3
    return await drips


async def _drip(one: Connection, first: bytes, then: bytes, every_s: float) -> None:
    going = await one.send(first)
    while going:
        await asyncio.sleep(every_s)
        going = await one.send(then)


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (head("/generate", JSON, "Content-Length: 1000") + b"\r\n", b"a"),
        (CHUNKED, chunk(b"a")),
        (head("/v1/completions", JSON, "Content-Length: 1000") + b"\r\n", b"a"),
    ],
    ids=["declared", "chunked", "v1"],
)
@pytest.mark.anyio
async def test_bodies_that_come_too_slowly_are_told_so(
    bounded: ServerProcess, first: bytes, then: bytes
) -> None:
    async def drip() -> int | None:
        async with connected(bounded) as one:
            slow = asyncio.create_task(_drip(one, first, then, 0.2))
            status = await one.status()
            await one.rest()  # which ends: the connection is closed
            slow.cancel()
            return status

    async with asyncio.timeout(BODY_TIMEOUT_S + LATE_S):
        assert await asyncio.gather(*(drip() for _ in range(20))) == [408] * 20


@pytest.mark.parametrize(
    ("first", "piece"), [(DECLARED, PIECE), (CHUNKED, chunk(PIECE))], ids=["declared", "chunked"]
)
def test_huge_bodies_are_refused_and_take_no_memory(
    bounded: ServerProcess, first: bytes, piece: bytes
) -> None:
    pieces = HUGE // len(PIECE)
    assert _pour(bounded, first, repeat(piece, pieces))[0] == 413
    growth, statuses = _memory_growth(
        bounded, lambda: _pour(bounded, first, repeat(piece, pieces))[0], 20
    )
    assert set(statuses) <= {413, 429}  # 429: many small enough ones are too much together
    assert statuses.count(413) >= 1
    assert growth < FLAT


@pytest.mark.anyio
async def test_a_client_that_still_sends_when_it_is_refused_gets_the_answer(
    bounded: ServerProcess,
) -> None:
    async with httpx.AsyncClient(base_url=bounded.url, timeout=60) as http:
        for _ in range(20):
            headers = {"content-type": "application/json"}
            answer = await http.post("/generate", content=b"a" * (8 * 2**20), headers=headers)
            assert answer.status_code == 413


@pytest.mark.parametrize(
    ("first", "piece"),
    [
        (head("/generate") + b"X-Endless: ", PIECE),
        (head("/generate"), b"X-More: and more\r\n" * 4096),
        (b"POST /" + PIECE, PIECE),
        (CHUNKED + b"1;", PIECE),
        (CHUNKED + b"0\r\nX-Endless: ", PIECE),
        (CHUNKED + b"0\r\n", b"X-More: and more\r\n" * 4096),
    ],
    ids=["header", "headers", "target", "chunk extension", "trailer", "trailers"],
)
def test_a_head_without_end_is_cut_off(bounded: ServerProcess, first: bytes, piece: bytes) -> None:
    growth, (sent,) = _memory_growth(
        bounded, lambda: _pour(bounded, first, repeat(piece, HUGE // len(piece)))[1], 1
    )
    assert sent < HUGE / 4  # what the kernel's buffers hold is sent, too
    assert growth < FLAT / 4
    assert bounded.generate("感冒", max_tokens=1)["finish_reason"]


def _pour(server: ServerProcess, first: bytes, pieces: Iterator[bytes]) -> tuple[int | None, int]:
    """Send until the server closes: the answer's status, and how much was sent."""
    sent = 0
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        try:
            connection.sendall(first)
            for piece in pieces:
                connection.sendall(piece)
                sent += len(piece)
        except ConnectionError:
            pass
        try:
            answer = connection.recv(4096)
        except ConnectionError:
            return None, sent
    return (int(answer.split()[1]) if answer else None), sent


def _memory_growth(server: ServerProcess, work: Callable[[], T], times: int) -> tuple[int, list[T]]:
    """By how many bytes the server's memory grew while `work` ran in so many threads."""
    before = highest = _memory(server)
    with ThreadPoolExecutor(times) as pool:
        running = {pool.submit(work) for _ in range(times)}
        left = running
        while left:
            left = wait(left, timeout=0.01).not_done
            highest = max(highest, _memory(server))
    return highest - before, [each.result() for each in running]


def _memory(server: ServerProcess) -> int:
    """Resident bytes of the server's own process."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmRSS:")]
    return int(line.split()[1]) * 1024
