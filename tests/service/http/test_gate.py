"""What every answer carries, whoever asks: ids, browsers' rules, no word about the inside."""

import json
import logging
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.engine.protocol import GenerationRequest, Step
from service.http.access_log import JsonFormatter
from service.settings import Settings
from tests.service.conftest import ready
from tests.service.fake import FakeEngine

pytestmark = pytest.mark.anyio
ORIGIN = "https://page.example"


class BrokenEngine(FakeEngine):
    """Its second request, the first after the warm-up, meets a bug."""

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Step]:
        if self.requests:
            raise RuntimeError(f"cannot read {__file__}")
        async for step in super().generate(request):
            yield step


@pytest.mark.parametrize("given", ["mine-1.a:b_c", "x" * 128])
async def test_a_request_id_of_ones_own_comes_back(client: httpx.AsyncClient, given: str) -> None:
    bodies: list[tuple[str, dict[str, Any]]]
    bodies = [("/generate", {"prompt": "一"}), ("/generate", {}), ("/nowhere", {})]
    for path, body in bodies:
        headers = {"X-Request-Id": given}
        answer = await client.post(path, json=body, headers=headers)
        assert answer.headers["x-request-id"] == answer.json()["request_id"] == given
    body = {"prompt": "一", "parameters": {"request_id": "in-the-body"}}
    answer = await client.post("/generate", json=body, headers={"X-Request-Id": given})
    assert answer.headers["x-request-id"] == answer.json()["request_id"] == "in-the-body"


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, 'a"b', "é".encode().decode("latin-1")])
async def test_an_id_that_logs_cannot_bear_is_replaced(
    client: httpx.AsyncClient, given: str
) -> None:
    headers = [(b"x-request-id", given.encode("latin-1"))]
    answer = await client.get("/version", headers=headers)
    assert len(answer.headers["x-request-id"]) == 32


async def test_every_answer_tells_browsers_to_take_it_as_it_is(client: httpx.AsyncClient) -> None:
    for path in ("/", "/version", "/livez", "/nowhere", "/generate", "/metrics"):
        headers = (await client.get(path)).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize("allowed", ["", ORIGIN])
async def test_other_origins_may_call_only_where_the_deployment_says_so(
    engine: FakeEngine, settings: Settings, allowed: str
) -> None:
    settings.cors_origins = allowed
    settings.api_keys = "secret"
    asked = {"Origin": ORIGIN, "Access-Control-Request-Method": "POST"}
    key = {"Authorization": "Bearer secret", "Origin": ORIGIN}

    async with ready(engine, settings) as client:
        preflight = await client.options("/generate", headers=asked)
        answer = await client.post("/generate", json={"prompt": "一"}, headers=key)
        assert answer.status_code == 200
        name = "access-control-allow-origin"
        assert preflight.headers.get(name, "") == answer.headers.get(name, "") == allowed
        stranger = {**key, "Origin": "https://evil.example"}
        answer = await client.post("/generate", json={"prompt": "一"}, headers=stranger)
        assert name not in answer.headers


async def test_without_administrators_there_is_no_admin(client: httpx.AsyncClient) -> None:
    for key in ("Bearer any", "Bearer ", ""):
        answer = await client.get("/admin/adapters", headers={"Authorization": key})
        assert answer.status_code == 404


async def test_a_bug_is_told_without_its_details(
    tokenizer: object, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    async with ready(BrokenEngine(tokenizer), settings) as client:
        answer = await client.post("/generate", json={"prompt": "一"})
        assert (answer.status_code, answer.json()["error_type"]) == (500, "internal_error")
        assert Path(__file__).name not in answer.text
        assert "Traceback" not in answer.text
        assert answer.headers["x-request-id"] in caplog.text
        assert Path(__file__).name in caplog.text


def test_the_json_log_is_an_object_a_line_with_the_requests_fields() -> None:
    record = logging.makeLogRecord({"msg": "one\ntwo", "levelname": "INFO", "name": "mergeline"})
    record.fields = {"request_id": "a-1", "status": 200}
    line = JsonFormatter().format(record)
    assert "\n" not in line
    told = json.loads(line)
    assert (told["message"], told["level"]) == ("one\ntwo", "info")
    assert (told["request_id"], told["status"]) == ("a-1", 200)
