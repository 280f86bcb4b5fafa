"""What every HTTP request passes first: an id, its key, a bound on its body; its answer counted.

Plain ASGI, since BaseHTTPMiddleware would hide a client's disconnect from the routes.
"""

import asyncio
import logging
import re
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import (
    NotFoundError,
    ServiceError,
    UnauthorizedError,
    UnavailableError,
    answer,
)
from service.http.access_log import PROBES, log_request, request_fields
from service.http.bodies import Bodies, brings_unread_body, takes_body
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
LINGER_S = 1.0
OWNER_DIGITS = 16  # of a key's digest
REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
BROWSER_RULES = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}


class Gate:
    """ASGI middleware around the whole app."""

    def __init__(
        self,
        app: ASGIApp,
        settings: Settings,
        metrics: Metrics,
        tracing: Tracing,
        longest_text: Callable[[], int | None],
    ) -> None:
        self._app = app
        self._tracing = tracing
        self._settings = settings
        self._metrics = metrics
        self._keys = Keys(settings.api_keys, settings.api_key_file)
        self._admin_keys = Keys(settings.admin_keys, settings.admin_key_file)
        self._bodies = Bodies(settings.max_body_bytes, settings.body_timeout_s, longest_text)

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
        lingering = _lingering(receive, exchange.send)
        try:
            self._admit(scope, headers)
            exchange.close = brings_unread_body(scope)
            body = await self._bodies.read(headers, receive) if takes_body(scope) else b""
        except ServiceError as error:
            self._metrics.rejections.labels(error.error_type).inc()
            exchange.close = True  # its body may still be on the way
            await answer(error, scope)(scope, receive, lingering)
        else:
            sender = lingering if exchange.close else exchange.send
            await self._serve(scope, _replay(body, receive), exchange, sender)
        finally:
            exchange.end()

    async def _serve(
        self, scope: Scope, receive: Receive, exchange: "_Exchange", send: Send
    ) -> None:
        try:
            await self._app(scope, receive, send)
        except Exception:  # a bug: the log has the details, the client none
            logger.exception("request %s failed", record_of(scope).request_id)
            if exchange.started:
                raise
            bug = answer(ServiceError("internal error; the log has details"), scope)
            await bug(scope, receive, exchange.send)

    def _admit(self, scope: Scope, headers: Headers) -> None:
        """Raise a ServiceError for a request that may not come in."""
        if scope.get(PROBES_ONLY) and scope["path"] not in PROBES:
            raise UnavailableError("all connections are taken (max_connections)")
        key = self._authorize(scope["path"], headers)
        if key and self._keys.several:
            record_of(scope).owner = f"{key[:OWNER_DIGITS]}."

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
                location = urlsplit(headers["location"])
                headers["Location"] = location._replace(scheme="", netloc="").geturl()
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
