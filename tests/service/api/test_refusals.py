"""Bad requests get a 4xx that names the field; the service goes on."""

import asyncio
from collections.abc import AsyncIterator, Callable

import httpx
import pytest

from service.settings import Settings
from tests.service.bad_requests import BAD_REQUESTS
from tests.service.conftest import Talk


def test_every_bad_request_is_refused_by_name(serve: Callable[[Talk], None]) -> None:
    async def talk(client: httpx.AsyncClient) -> None:
        wrong: list[tuple[object, ...]] = []
        for bad in BAD_REQUESTS:
            answer = await client.post("/generate", content=bad.bytes(), headers=bad.headers)
            body = answer.json()
            if answer.status_code != bad.status or (body["param"] or "") != bad.param:
                wrong.append((bad.name, answer.status_code, body))
            if set(body) != {"error", "error_type", "param", "request_id"}:
                wrong.append((bad.name, "shape", body))
        assert not wrong, "\n".join(map(str, wrong))
        assert (await client.post("/generate", json={"prompt": "感冒"})).status_code == 200

    serve(talk)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nowhere", 404), ("GET", "/generate", 405), ("DELETE", "/readyz", 405)],
)
def test_wrong_routes_get_the_same_error_shape(
    serve: Callable[[Talk], None], method: str, path: str, status: int
) -> None:
    async def talk(client: httpx.AsyncClient) -> None:
        answer = await client.request(method, path)
        assert answer.status_code == status
        assert path in answer.json()["error"]

    serve(talk)


def test_a_405_tells_the_methods_of_all_routes_with_that_path(
    serve: Callable[[Talk], None], settings: Settings
) -> None:
    settings.admin_keys = "boss"

    async def talk(client: httpx.AsyncClient) -> None:
        for path, methods in (("/generate", "POST"), ("/admin/adapters", "GET, POST")):
            answer = await client.patch(path, headers={"Authorization": "Bearer boss"})
            assert (answer.status_code, answer.headers["allow"]) == (405, methods)

    serve(talk)


def test_a_body_without_a_length_is_bounded_too(serve: Callable[[Talk], None]) -> None:
    async def talk(client: httpx.AsyncClient) -> None:
        async def chunks() -> AsyncIterator[bytes]:
            for _ in range(200):
                yield b"a" * 1000

        answer = await client.post("/generate", content=chunks())
        assert answer.status_code == 413

    serve(talk)


def test_large_bodies_together_are_bounded_and_keep_no_small_one_out(
    serve: Callable[[Talk], None], settings: Settings
) -> None:
    async def talk(client: httpx.AsyncClient) -> None:
        sent, hold = asyncio.Event(), asyncio.Event()
        largest = settings.max_body_bytes

        async def slow() -> AsyncIterator[bytes]:
            yield b" " * largest
            sent.set()
            await hold.wait()
            yield b""

        async def large() -> AsyncIterator[bytes]:
            yield b'{"prompt": "' + b" " * (largest - 20)
            yield b'"}'

        held = []
        for _ in range(4):
            sent.clear()
            held.append(asyncio.create_task(client.post("/generate", content=slow())))
            await sent.wait()
        refused = await client.post("/generate", content=large())
        assert (refused.status_code, refused.headers["Retry-After"]) == (429, "1")
        assert (await client.post("/generate", json={"prompt": "感冒"})).status_code == 200
        hold.set()
        assert {(await each).status_code for each in held} == {400}
        assert (await client.post("/generate", content=large())).status_code == 400  # too long

    serve(talk)
