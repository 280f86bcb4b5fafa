"""/v1: the engine's own OpenAI routes, behind our gate, admission and drain."""

import asyncio
import json
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.v1_requests import RESPONSES, V1Work, read_v1
from service.deployment import Deployment, UnderWay
from service.engine.protocol import ALLOWANCE, OPENAI_ROUTES, Allowance
from service.errors import (
    InvalidRequestError,
    NotFoundError,
    ServiceError,
    WrongMethodError,
    answer,
)
from service.generation.prompt import PromptEncoder
from service.http.streams import EVENT_STREAM, LINE_SEPARATORS
from service.request_record import RequestRecord, record_of

PASSED_ON = {b"content-type", b"content-length", b"accept"}
ANNOUNCED = (b"event: response.created", b"event: response.in_progress")
"""Events of /v1/responses that come before the engine has taken the request, and may refuse it."""
ERROR_EVENTS = (b'data: {"error":', b"event: error\n")
V1_SHARE = 1 / 8
"""Of the log-probabilities that an answer may have: vLLM's code takes longer, in one piece."""
STUMBLED = 500
"""The status of vLLM's answer where its own code raises what it did not expect."""
logger = logging.getLogger("mergeline")


class V1:
    """An ASGI application that hands requests on to the engine's routes.

    Each is read before: what it may cost is counted and bounded as for /generate. Headers of
    clients are left out, since vLLM takes orders from some.
    """

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        inner = {key: scope[key] for key in scope if key not in ("app", "router", "endpoint")}
        inner["state"] = {}

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start" and "route" in inner:
                scope["route"] = inner["route"]  # what metrics and the log call it
            await send(message)

        try:
            await self._serve(inner, receive, named)
        except ServiceError as error:
            await answer(error, scope)(scope, receive, send)

    async def _serve(self, inner: Scope, receive: Receive, send: Send) -> None:
        ready = self._deployment.lifecycle.require_ready()
        _refuse_other_routes(inner)
        record = record_of(inner)
        inner["headers"] = _headers(inner, record)
        if inner["method"] != "POST":
            await ready.openai_routes(inner, receive, send)
            return
        body = (await receive())["body"]  # the gate has read it whole
        work = read_v1(inner["path"], body, record, self._deployment.settings.max_prompts)
        inner["state"]["input"] = work.items
        self._refuse_other_models(work.model)
        most = int(self._deployment.settings.max_answer_logprobs * V1_SHARE)
        ALLOWANCE.set(Allowance(most, work.prompts, in_streams=inner["path"] == RESPONSES))
        with self._under_way(work) as under_way:
            # in a thread: a body of megabytes takes seconds
            await asyncio.to_thread(_refuse_control_tokens, work, ready.encoder)
            failure = self._deployment.engine.failure
            answering = _Answer(inner, send, under_way.lease.release, failure)
            try:
                await _handed_on(ready.openai_routes, inner, body, receive, answering.send)
            except Exception as error:  # of any kind: the connection would be cut
                await answering.fail(_cause(error))

    def _under_way(self, work: V1Work) -> AbstractContextManager[UnderWay]:
        adapter = None if work.model == self._deployment.settings.model_name else work.model
        return self._deployment.request(None, work.prompts, work.each, adapter)

    def _refuse_other_models(self, model: str | None) -> None:
        """Also an adapter that is being unloaded: vLLM still knows it."""
        deployment = self._deployment
        known = [deployment.settings.model_name, *deployment.adapters.names]
        if model is not None and model not in known:
            raise NotFoundError(
                f"no model {model!r} is served here (known: {', '.join(known)})", "model"
            )


class _Answer:
    """vLLM's answer on its way: a stream that fails before it begins gets its status.

    One that fails later ends with an event that says so. And what vLLM stumbles over gets a 400:
    with the engine alive it is the request's own fault.
    """

    def __init__(
        self,
        scope: Scope,
        send: Send,
        on_begin: Callable[[], None],
        failure: Callable[[], ServiceError | None],
    ) -> None:
        self._scope = scope
        self._failure = failure
        self._send = send
        self._on_begin = on_begin
        self._start: Message | None = None
        self._begun = False
        self._held: list[Message] = []
        self._is_stream = False
        self._ended = False

    async def send(self, message: Message) -> None:
        """Pass an ASGI message on."""
        if message["type"] == "http.response.start":
            kind = Headers(raw=message["headers"]).get("content-type", "")
            self._is_stream = kind.startswith(EVENT_STREAM)
            self._start = message
        elif not self._ended:
            await self._body(message)

    async def _body(self, message: Message) -> None:
        self._held.append(message)
        body = message.get("body", b"")
        if self._begun or not body.startswith(ANNOUNCED):
            await self._begin(body)
            await self._pass_on()

    async def _begin(self, body: bytes) -> None:
        if self._begun or self._start is None:
            return
        self._on_begin()  # all its prompts are in the engine by now
        error = _error_in(self._start["status"], body)
        if error is None:
            self._begun = True
            await self._send(self._start)
        else:
            await self._refuse(error)

    async def _pass_on(self) -> None:
        while self._begun and self._held:
            message = self._held.pop(0)
            if self._is_stream:
                message = {**message, "body": _escaped(message.get("body", b""))}
            await self._send(message)
            self._ended = not message.get("more_body", False)

    async def fail(self, error: BaseException) -> None:
        """End the answer with what the routes raised once they had begun it."""
        problem = _problem_of(error)
        if problem["code"] == STUMBLED and not self._ended:
            logger.error("/v1 failed under way", exc_info=error)
        if not self._begun:
            await self._refuse(problem)
        elif not self._ended:
            await self._end_with(problem)

    async def _end_with(self, problem: dict[str, Any]) -> None:
        data = json.dumps({**problem, "type": "error", "error": problem})
        event = f"event: error\ndata: {data}\n\n".encode()
        await self._send({"type": "http.response.body", "body": event})

    async def _refuse(self, error: dict[str, Any]) -> None:
        if self._ended:
            return
        self._ended = True
        failure = self._failure()
        if error["code"] == STUMBLED and failure is None:
            logger.warning("/v1 could not process a request: %s", error["message"])
            failure = InvalidRequestError(f"the request cannot be processed: {error['message']}")
        answering = JSONResponse({"error": error}, error["code"])
        if failure is not None:
            answering = answer(failure, self._scope)
        head = {"type": "http.response.start", "status": answering.status_code}
        await self._send({**head, "headers": answering.raw_headers})
        await self._send({"type": "http.response.body", "body": answering.body})


def _error_in(status: int, body: bytes) -> dict[str, Any] | None:
    """Of a stream that begins with an error, or of an answer of 500."""
    begins_with_error = body.startswith(ERROR_EVENTS)
    if not begins_with_error and status != STUMBLED:
        return None
    first = body.removeprefix(ERROR_EVENTS[1]).split(b"\n", 1)[0].removeprefix(b"data: ")
    error: dict[str, Any] = json.loads(first)["error"]
    # /v1/messages has another shape, without a code
    return {"code": STUMBLED if begins_with_error else status, **error}


def _cause(error: BaseException) -> BaseException:
    """The first of its causes that has something to say, and is not "already started"."""
    causes = [error]
    while causes[-1].__cause__ is not None:
        causes.append(causes[-1].__cause__)
    return next(filter(str, causes[1:]), causes[-1])


def _problem_of(error: BaseException) -> dict[str, Any]:
    """In vLLM's shape, what its routes raised."""
    refused = isinstance(error, ValueError) or hasattr(error, "parameter")
    return {
        "message": str(error) or type(error).__name__,
        "type": "BadRequestError" if refused else "InternalServerError",
        "param": getattr(error, "parameter", None),
        "code": InvalidRequestError.status if refused else STUMBLED,
    }


def v1_route(deployment: Deployment) -> Route:
    """The route of everything under /v1."""
    return Route("/v1/{rest:path}", V1(deployment), methods=None, include_in_schema=False)


async def _handed_on(app: ASGIApp, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
    """Have `app` answer; it reads the body from its beginning."""
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return pending.pop() if pending else await receive()

    await app(scope, replay, send)


def _refuse_other_routes(scope: Scope) -> None:
    """Those that vLLM has for operators and other programs of its own are not there."""
    path = scope["path"]
    methods = [method for method, paths in OPENAI_ROUTES.items() if path in paths]
    if not methods:
        raise NotFoundError(f"there is no {path} here; GET /docs lists all routes")
    if scope["method"] not in methods:
        raise WrongMethodError(f"{path} takes {', '.join(methods)}", methods)


def _headers(scope: Scope, record: RequestRecord) -> list[tuple[bytes, bytes]]:
    """Those that vLLM may see: how the body is to be read, and who asks, in our words."""
    ours = {"x-request-id": record.request_id, **record.trace}
    return [
        *((name, value) for name, value in scope["headers"] if name in PASSED_ON),
        *((name.encode(), value.encode()) for name, value in ours.items()),
    ]


def _refuse_control_tokens(work: V1Work, encoder: PromptEncoder) -> None:
    for text, trusted in work.rendered:
        encoder.refuse_control_tokens(text, trusted=trusted)


def _escaped(body: bytes) -> bytes:
    """A stream's event whose lines end where the standard says, and nowhere else."""
    for separator, escaped in LINE_SEPARATORS.items():
        body = body.replace(separator.encode(), escaped.encode())
    return body
