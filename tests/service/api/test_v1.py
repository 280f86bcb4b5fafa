"""What comes back from the engine's own routes under /v1, whatever they answer."""

import json
from typing import Any

import pytest
from starlette.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.v1_requests import MOST_REPEATED, read_v1
from service.errors import EngineDiedError, InvalidRequestError
from service.request_record import RequestRecord
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


CREATED = b'event: response.created\ndata: {"type": "response.created"}\n\n'
PROGRESS = b'event: response.in_progress\ndata: {"type": "response.in_progress"}\n\n'
DELTA = b'event: response.output_text.delta\ndata: {"delta": "a"}\n\n'


class Refusal(Exception):  # noqa: N818 - as vLLM's
    """Of a field."""

    parameter = "structured_outputs"


def raising(error: Exception, *events: bytes, kind: str = "text/event-stream") -> ASGIApp:
    """Routes that send so much of an answer and then raise."""

    async def routes(scope: Scope, receive: Receive, send: Send) -> None:
        if events:
            headers = [(b"content-type", kind.encode())]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
        for event in events:
            await send({"type": "http.response.body", "body": event, "more_body": kind != JSON})
        raise RuntimeError("the response has started") from error

    return routes


JSON = "application/json"
RAISED = {
    "refused": (Refusal("it is too costly"), "BadRequestError", 400, "structured_outputs"),
    "wrong": (ValueError("it is wrong"), "BadRequestError", 400, None),
    "a bug": (IndexError("list index out of range"), "InternalServerError", 500, None),
}


@pytest.mark.parametrize("events", [(), (CREATED,), (CREATED, PROGRESS)])
@pytest.mark.parametrize("name", RAISED)
async def test_what_is_raised_before_an_answer_begins_has_its_status(
    tokenizer: Any, settings: Settings, name: str, events: tuple[bytes, ...]
) -> None:
    error, _, _, param = RAISED[name]
    async with ready(Answering(tokenizer, raising(error, *events)), settings) as client:
        told = await client.post("/v1/responses", json=BODY)
        assert told.status_code == 400
        assert str(error) in told.json()["error"]["message"]
        assert told.json()["error"]["param"] == param


@pytest.mark.parametrize("name", RAISED)
async def test_a_stream_that_fails_under_way_says_so_and_ends(
    tokenizer: Any, settings: Settings, name: str
) -> None:
    error, kind, code, param = RAISED[name]
    routes = raising(error, CREATED, PROGRESS, DELTA)
    async with ready(Answering(tokenizer, routes), settings) as client:
        told = await client.post("/v1/responses", json=BODY)
        *before, last = told.content.split(b"event: ")
        assert b"event: ".join(before) == CREATED + PROGRESS + DELTA
        data = json.loads(last.removeprefix(b"error\ndata: "))
        problem = {"message": str(error), "type": kind, "param": param, "code": code}
        assert data == {**problem, "type": "error", "error": problem}


async def test_nothing_follows_a_whole_answer(tokenizer: Any, settings: Settings) -> None:
    routes = raising(ValueError("late"), b'{"a": 1}', kind=JSON)
    async with ready(Answering(tokenizer, routes), settings) as client:
        told = await client.post("/v1/responses", json=BODY)
        assert (told.status_code, told.json()) == (200, {"a": 1})


MANY: dict[str, dict[str, list[Any]]] = {
    "messages": {"messages": [{"role": "user", "content": "a"}] * 2049},
    "parts": {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}] * 2048}]},
    "tools": {"tools": [{"type": "function", "function": {"name": "f"}}] * 2049},
    "items": {"input": [{"role": "user", "content": "a"}] * 513},
    "nested items": {"input": [{"role": "user", "content": [{"text": "a"}] * 512}]},
}


@pytest.mark.parametrize("name", MANY)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/v1/messages"])
async def test_objects_that_are_checked_one_by_one_are_counted(
    tokenizer: Any, settings: Settings, name: str, path: str
) -> None:
    engine = Answering(tokenizer, JSONResponse({}))
    settings.max_body_bytes = 2**20
    ((field, whole),) = MANY[name].items()
    async with ready(engine, settings) as client:
        told = await client.post(path, json={"model": "fake-model", field: whole})
        assert (told.status_code, told.json()["error"]["param"]) == (400, field)
        if len(whole) == 1:
            return
        fewer = {field: whole[: len(whole) // 2]}
        told = await client.post(path, json={"model": "fake-model", **fewer})
        assert told.status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [BODY["messages"]] * 129},
        {"messages": [[]] * 100, "prompt": [1] * 30_000},
        {"messages": [[]] * 100, "documents": ["x" * 10_000]},
    ],
    ids=["conversations", "a prompt beside", "documents beside"],
)
async def test_a_batch_of_conversations_is_bounded(
    tokenizer: Any, settings: Settings, body: dict[str, Any]
) -> None:
    settings.max_body_bytes = 2**23
    async with ready(Answering(tokenizer, JSONResponse({})), settings) as client:
        told = await client.post("/v1/chat/completions/batch", json={"model": "fake-model", **body})
        assert told.status_code == 400


async def test_what_is_repeated_is_counted_as_text_not_as_escapes(
    tokenizer: Any, settings: Settings
) -> None:
    settings.max_body_bytes = 2**23
    async with ready(Answering(tokenizer, JSONResponse({})), settings) as client:
        tool = {"type": "function", "function": {"name": "f", "description": "药" * 2000}}
        tools = [tool] * 100
        content = json.dumps({"model": "fake-model", "messages": [], "tools": tools})
        assert len(content) > MOST_REPEATED
        headers = {"content-type": "application/json"}
        told = await client.post("/v1/chat/completions", content=content, headers=headers)
        assert told.status_code == 200, told.text


async def test_what_a_tool_call_holds_is_no_object_of_the_request(
    tokenizer: Any, settings: Settings
) -> None:
    rows = json.dumps([{"a": 1}] * 600)
    call = {"type": "function_call", "call_id": "1", "name": "f", "arguments": rows}
    settings.max_body_bytes = 2**20
    async with ready(Answering(tokenizer, JSONResponse({})), settings) as client:
        told = await client.post("/v1/responses", json={"model": "fake-model", "input": [call]})
        assert told.status_code == 200, told.text


async def test_beams_have_no_log_probabilities(tokenizer: Any, settings: Settings) -> None:
    async with ready(Answering(tokenizer, JSONResponse({})), settings) as client:
        for logprobs, status in ((5, 400), (0, 400), (True, 400), (None, 200), (False, 200)):
            body = {**BODY, "use_beam_search": True, "n": 4, "logprobs": logprobs}
            told = await client.post("/v1/completions", json=body)
            assert told.status_code == status, logprobs


async def test_a_stream_of_messages_that_begins_with_an_error_has_its_status(
    tokenizer: Any, settings: Settings
) -> None:
    event = f"event: error\ndata: {json.dumps(ANTHROPIC)}\n\n"
    answer = StreamingResponse(iter([event]), media_type="text/event-stream")
    async with ready(Answering(tokenizer, answer), settings) as client:
        told = await client.post("/v1/messages", json=BODY)
        assert told.status_code == 400
        assert "list index" in told.json()["error"]["message"]


async def test_an_error_without_a_text_is_told_by_its_cause(
    tokenizer: Any, settings: Settings
) -> None:
    wrapped = RuntimeError()
    wrapped.__cause__ = ValueError("the reason")
    async with ready(Answering(tokenizer, raising(wrapped, CREATED)), settings) as client:
        told = await client.post("/v1/responses", json=BODY)
        assert "the reason" in told.json()["error"]["message"]


@pytest.mark.parametrize("constraint", ["response_format", "structured_outputs"])
def test_hidden_thoughts_do_not_go_with_a_constraint(constraint: str) -> None:
    """VLLM would force the constraint into the thought, and hide it."""
    kinds = {"response_format": {"type": "json_object"}, "structured_outputs": {"choice": ["a"]}}
    body = {"messages": [], constraint: kinds[constraint], "include_reasoning": False}
    path, record = "/v1/chat/completions", RequestRecord("id", "POST")
    with pytest.raises(InvalidRequestError) as refused:
        read_v1(path, json.dumps(body).encode(), record, 1)
    assert refused.value.param == "include_reasoning"
    body["include_reasoning"] = True
    read_v1(path, json.dumps(body).encode(), record, 1)
