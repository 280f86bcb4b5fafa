"""What every HTTP request passes first: an id, its key, a bound on its body; its answer counted.

Plain ASGI, since BaseHTTPMiddleware would hide a client's disconnect from the routes.
"""

import asyncio
import logging
import re
import time
import uuid
from contextlib import suppress
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import (
    BodyTooLargeError,
    BodyTooSlowError,
    InvalidRequestError,
    NotFoundError,
    OverloadedError,
    ServiceError,
    UnauthorizedError,
    UnavailableError,
    answer,
)
from service.http.access_log import PROBES, log_request, request_fields
from service.http.connections import PROBES_ONLY
from service.http.streams import CLIENT_GONE
from service.http.tracing import Tracing
from service.keys import Keys
from service.metrics import Metrics
from service.request_record import KEY, RequestRecord, record_of
from service.settings import Settings

logger = logging.getLogger("mergeline")
PUBLIC = PROBES | {"/"}  # the page at / sends the key with its own requests
PAGE_FILES = "/page/"
WITH_BODY = {"/generate", "/tokenize", "/detokenize", "/abort", "/admin/adapters"}
V1 = "/v1/"
BODIES_AT_ONCE = 4  # what all that are on their way may take, in largest bodies
SMALL_BODY = 64 * 1024  # is always taken: a few large and slow ones must not keep it out
LINGER_S = 1.0
REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
BROWSER_RULES = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}


class Gate:
    """ASGI middleware around the whole app."""

    def __init__(
        self, app: ASGIApp, settings: Settings, metrics: Metrics, tracing: Tracing
    ) -> None:
        self._app = app
        self._tracing = tracing
        self._settings = settings
        self._metrics = metrics
        self._keys = Keys(settings.api_keys, settings.api_key_file)
        self._admin_keys = Keys(settings.admin_keys, settings.admin_key_file)
        self._bytes_on_the_way = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection event."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        scope[KEY] = record = RequestRecord(_request_id(headers), scope["method"])
        if record.method == "HEAD":
            scope = {**scope, "method": "GET"}  # the server leaves the body out
        exchange = _Exchange(scope, send, self._metrics, self._tracing)
        try:
            if scope.get(PROBES_ONLY) and scope["path"] not in PROBES:
                raise UnavailableError("all connections are taken (max_connections)")
            record.key = self._authorize(scope["path"], headers)
            body = b""
            if _takes_body(scope):
                body = await self._read(headers, receive)
            else:
                exchange.close = _brings_body(headers)
        except ServiceError as error:
            self._metrics.rejections.labels(error.error_type).inc()
            exchange.close = True  # its body may still be on the way
            refusal = answer(error, scope)
            await refusal(scope, receive, _lingering(receive, exchange.send))
        else:
            sender = _lingering(receive, exchange.send) if exchange.close else exchange.send
            try:
                await self._app(scope, _replay(body, receive), sender)
            except Exception:  # a bug: the log has the details, the client none
                logger.exception("request %s failed", record_of(scope).request_id)
                if exchange.started:
                    raise
                bug = answer(ServiceError("internal error; the log has details"), scope)
                await bug(scope, receive, exchange.send)
        finally:
            exchange.end()

    def _authorize(self, path: str, headers: Headers) -> str | None:
        """The digest of the key, where one is needed. Raises UnauthorizedError, NotFoundError."""
        authorization = headers.get("authorization", "")
        if path.startswith("/admin/"):
            return self._authorize_admin(authorization)
        if self._is_public(path):
            return None
        key = self._keys.accept(authorization)
        if key is None:
            raise UnauthorizedError("an API key is needed: Authorization: Bearer …")
        return key

    def _authorize_admin(self, authorization: str) -> str:
        if not self._admin_keys.needed:
            raise NotFoundError("there is no /admin: the service was started without admin_keys")
        key = self._admin_keys.accept(authorization)
        if key is None:
            raise UnauthorizedError("an administrator's key is needed: Authorization: Bearer …")
        return key

    def _is_public(self, path: str) -> bool:
        if path == "/metrics":
            return not (self._settings.metrics_need_key and self._keys.needed)
        return not self._keys.needed or path in PUBLIC or path.startswith(PAGE_FILES)

    async def _read(self, headers: Headers, receive: Receive) -> bytes:
        _refuse_other_types(headers)
        limit = self._settings.max_body_bytes
        refusal = BodyTooLargeError(f"the body is over {limit} bytes: send fewer prompts at once")
        declared = headers.get("content-length", "0")
        if declared.isdigit() and int(declared) > limit:
            raise refusal
        body = bytearray()
        try:
            async with asyncio.timeout(self._settings.body_timeout_s):
                while True:
                    message = await receive()
                    piece = message.get("body", b"")
                    body += piece
                    self._bytes_on_the_way += len(piece)
                    if len(body) > limit:
                        raise refusal
                    self._check_room(len(body))
                    if not message.get("more_body", False):
                        return bytes(body)
        except TimeoutError:
            raise BodyTooSlowError(
                f"the body was not there within {self._settings.body_timeout_s:g} s"
            ) from None
        finally:
            self._bytes_on_the_way -= len(body)
            body.clear()  # a refusal's traceback holds it while the connection lingers

    def _check_room(self, body_bytes: int) -> None:
        most = BODIES_AT_ONCE * self._settings.max_body_bytes
        if body_bytes > SMALL_BODY and self._bytes_on_the_way > most:
            raise OverloadedError("too many large bodies at once: try again in 1 s", 1)


class _Exchange:
    """One request and its answer: headers that every answer has, metrics, log and span."""

    def __init__(self, scope: Scope, send: Send, metrics: Metrics, tracing: Tracing) -> None:
        self._scope = scope
        self._tracing = tracing
        self._span = tracing.begin(scope, Headers(scope=scope))
        self._send = send
        self._metrics = metrics
        self._started = time.perf_counter()
        self._status = CLIENT_GONE
        self.close = False
        """True: the connection ends with this answer."""
        self.started = False
        """True once the answer's head is under way."""

    async def send(self, message: Message) -> None:
        """Pass an ASGI message on."""
        if message["type"] == "http.response.start":
            self._status = message["status"]
            self.started = True
            headers = MutableHeaders(scope=message)
            headers["X-Request-Id"] = record_of(self._scope).request_id
            if self.close:
                headers["Connection"] = "close"
            if "location" in headers:  # the scheme and host that a proxy has are not known here
                headers["Location"] = (
                    urlsplit(headers["location"])._replace(scheme="", netloc="").geturl()
                )
            for name, value in BROWSER_RULES.items():
                headers.setdefault(name, value)
        await self._send(message)

    def end(self) -> None:
        """Count and log it."""
        route = getattr(self._scope.get("route"), "path", "other")
        seconds = time.perf_counter() - self._started
        self._metrics.requests.labels(route, _outcome(self._status)).inc()
        self._metrics.duration.labels(route).observe(seconds)
        fields = request_fields(self._scope, route, self._status, seconds)
        log_request(fields)
        self._tracing.end(self._span, fields)


def _takes_body(scope: Scope) -> bool:
    path = scope["path"]
    return scope["method"] == "POST" and (path in WITH_BODY or path.startswith(V1))


def _brings_body(headers: Headers) -> bool:
    return "transfer-encoding" in headers or headers.get("content-length", "0") != "0"


def _refuse_other_types(headers: Headers) -> None:
    """A form of a foreign web page can send text, but no JSON without asking first."""
    sent = headers.get("content-type", "")
    kind = sent.partition(";")[0].strip().lower()
    if kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json")):
        return
    found = f"is {sent[:100]!r}" if sent else "is missing"
    raise InvalidRequestError(
        f"the header Content-Type {found}: send Content-Type: application/json", "content-type"
    )


def _request_id(headers: Headers) -> str:
    """The client's own when it has a form that logs can bear, else a new one."""
    sent = headers.get("x-request-id", "")
    return sent if REQUEST_ID.fullmatch(sent) else uuid.uuid4().hex


def _lingering(receive: Receive, send: Send) -> Send:
    """A send that reads on for a while before it ends the answer, and so the connection.

    A client whose connection is cut while it still sends may lose the answer.
    """

    async def lingering(message: Message) -> None:
        if message["type"] != "http.response.body":
            await send(message)
            return
        await send({**message, "more_body": True})
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER_S):
                while (await receive()).get("more_body", False):
                    pass
        await send({"type": "http.response.body", "body": b""})

    return lingering


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
