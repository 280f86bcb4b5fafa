"""What comes back from the engine's own routes under /v1, whatever they answer."""

import json
from typing import Any

import pytest
from starlette.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.types import ASGIApp

from service.errors import EngineDiedError
from service.settings import Settings
from tests.service.conftest import ready
from tests.service.fake import FakeEngine

pytestmark = pytest.mark.anyio
STUMBLED = {"message": "list index out of range", "type": "InternalServerError", "code": 500}
OPENAI = {"error": {**STUMBLED, "param": None}}
ANTHROPIC = {"type": "error", "error": {"type": "api_error", "message": "list index"}}
BAD = {"error": {"message": "no", "type": "BadRequestError", "param": "n", "code": 400}}
BODY = {"model": "fake-model", "prompt": "感冒", "messages": []}


class Answering(FakeEngine):
    """Its own routes answer so."""

    def __init__(self, tokenizer: Any, answer: ASGIApp) -> None:
        super().__init__(tokenizer)
        self._answer = answer

    async def openai_routes(self) -> ASGIApp:
        return self._answer


def stream(*events: Any) -> StreamingResponse:
    lines = [f"data: {json.dumps(event, ensure_ascii=False)}\n\n" for event in events]
    return StreamingResponse(iter(lines), media_type="text/event-stream")


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (JSONResponse(OPENAI, 500), 400),
        (JSONResponse(ANTHROPIC, 500), 400),
        (JSONResponse(BAD, 400), 400),
        (JSONResponse(BAD, 503), 503),
    ],
    ids=["OpenAI's", "Anthropic's", "a refusal", "no capacity"],
)
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/messages"])
async def test_what_the_routes_stumble_over_is_the_requests_fault_and_all_else_stays(
    tokenizer: Any, settings: Settings, answer: JSONResponse, status: int, path: str
) -> None:
    async with ready(Answering(tokenizer, answer), settings) as client:
        told = await client.post(path, json=BODY)
        assert told.status_code == status
        assert told.json()["error"]["message"]


@pytest.mark.parametrize(("event", "status"), [(OPENAI, 400), (BAD, 400)])
async def test_a_stream_that_fails_before_it_begins_has_its_status(
    tokenizer: Any, settings: Settings, event: Any, status: int
) -> None:
    engine = Answering(tokenizer, stream(event, "rest"))
    async with ready(engine, settings) as client:
        told = await client.post("/v1/completions", json=BODY)
        assert (told.status_code, told.json()["error"]["code"]) == (status, status)


async def test_an_engine_that_has_failed_is_no_fault_of_the_request(
    tokenizer: Any, settings: Settings
) -> None:
    engine = Answering(tokenizer, stream(OPENAI))
    async with ready(engine, settings) as client:
        engine.fail(EngineDiedError("the engine has died"))
        told = await client.post("/v1/completions", json=BODY)
        assert (told.status_code, told.json()["error"]["type"]) == (500, "engine_died")


async def test_a_streams_lines_end_where_events_do(tokenizer: Any, settings: Settings) -> None:
    text = "甲\u2028乙\u2029丙\x85丁"
    engine = Answering(tokenizer, stream({"text": text}))
    async with ready(engine, settings) as client:
        told = await client.post("/v1/completions", json=BODY)
        (line,) = [line for line in told.text.splitlines() if line]
        assert json.loads(line.removeprefix("data: "))["text"] == text


async def test_other_answers_pass_as_they_are(tokenizer: Any, settings: Settings) -> None:
    engine = Answering(tokenizer, PlainTextResponse("as it is", 202))
    async with ready(engine, settings) as client:
        told = await client.post("/v1/completions", json=BODY)
        assert (told.status_code, told.text) == (202, "as it is")
