"""What every HTTP request passes first: it gets an id, its body is bounded, its answer counted.

Plain ASGI, since BaseHTTPMiddleware would hide a client's disconnect from the routes.
"""

import uuid

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import BodyTooLargeError
from service.metrics import Metrics
from service.streams import CLIENT_GONE


class Gate:
    """ASGI middleware around the whole app."""

    def __init__(self, app: ASGIApp, max_body_bytes: int, metrics: Metrics) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection event."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = scope.setdefault("state", {})["request_id"] = uuid.uuid4().hex
        counted = self._count(scope, send)
        try:
            body = await self._read(scope, receive)
        except BodyTooLargeError as error:
            refusal = JSONResponse(error.body(request_id), error.status, {"Connection": "close"})
            await refusal(scope, receive, counted)
            return
        await self._app(scope, _replay(body, receive), counted)

    async def _read(self, scope: Scope, receive: Receive) -> bytes:
        limit = self._max_body_bytes
        refusal = BodyTooLargeError(f"the body is over {limit} bytes: send fewer prompts at once")
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > limit:
            raise refusal
        body = bytearray()
        while True:
            message = await receive()
            body += message.get("body", b"")
            if len(body) > limit:
                raise refusal
            if not message.get("more_body", False):
                return bytes(body)

    def _count(self, scope: Scope, send: Send) -> Send:
        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = getattr(scope.get("route"), "path", "other")
                self._metrics.requests.labels(route, _outcome(message["status"])).inc()
            await send(message)

        return counted


def _replay(body: bytes, receive: Receive) -> Receive:
    """A receive that gives the body once, and after it whatever the server sends."""
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return pending.pop() if pending else await receive()

    return replay


def _outcome(status: int) -> str:
    if status == CLIENT_GONE:
        return "aborted"
    if status < 400:
        return "ok"
    return "client_error" if status < 500 else "error"
