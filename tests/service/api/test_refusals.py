"""Bad requests get a 4xx that names the field; the service goes on."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from service.settings import Settings
from tests.service.bad_requests import BAD_REQUESTS
from tests.service.conftest import ready
from tests.service.fake import FakeEngine

JSON = {"content-type": "application/json"}
pytestmark = pytest.mark.anyio


async def test_every_bad_request_is_refused_by_name(client: httpx.AsyncClient) -> None:
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


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nowhere", 404), ("GET", "/generate", 405), ("DELETE", "/readyz", 405)],
)
async def test_wrong_routes_get_the_same_error_shape(
    client: httpx.AsyncClient, method: str, path: str, status: int
) -> None:
    answer = await client.request(method, path)
    assert answer.status_code == status
    assert path in answer.json()["error"]


async def test_a_405_tells_the_methods_of_all_routes_with_that_path(
    engine: FakeEngine, settings: Settings
) -> None:
    settings.admin_keys = "boss"
    async with ready(engine, settings) as client:
        for path, methods in (("/generate", "POST"), ("/admin/adapters", "GET, POST")):
            answer = await client.patch(path, headers={"Authorization": "Bearer boss"})
            assert (answer.status_code, answer.headers["allow"]) == (405, methods)


async def test_a_body_without_a_length_is_bounded_too(client: httpx.AsyncClient) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(200):
            yield b"a" * 1000

    answer = await client.post("/generate", content=chunks(), headers=JSON)
    assert answer.status_code == 413


async def test_large_bodies_together_are_bounded_and_keep_no_small_one_out(
    client: httpx.AsyncClient, settings: Settings
) -> None:
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
        held.append(asyncio.create_task(client.post("/generate", content=slow(), headers=JSON)))
        await sent.wait()
    refused = await client.post("/generate", content=large(), headers=JSON)
    assert (refused.status_code, refused.headers["Retry-After"]) == (429, "1")
    assert (await client.post("/generate", json={"prompt": "感冒"})).status_code == 200
    hold.set()
    assert {(await each).status_code for each in held} == {400}
    assert (
        await client.post("/generate", content=large(), headers=JSON)
    ).status_code == 400  # too long


@pytest.mark.parametrize("role", [{}, [], None, 7, True, ""])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
async def test_a_role_that_is_no_text_is_left_to_the_engines_routes(
    client: httpx.AsyncClient, path: str, role: object
) -> None:
    body = {"model": "fake-model", "messages": [{"role": role, "content": "感冒"}]}
    assert (await client.post(path, json=body)).status_code == 200
