"""Bodies of requests: which routes have one, how large, how slow and how costly it may be."""

import asyncio
from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.types import Receive, Scope

from service.errors import (
    BodyTooLargeError,
    BodyTooSlowError,
    InvalidRequestError,
    OverloadedError,
)

WITH_BODY = {"/generate", "/tokenize", "/detokenize", "/abort", "/admin/adapters"}
V1 = "/v1/"
BODIES_AT_ONCE = 4  # what all that are on their way may take, in largest bodies
SMALL_BODY = 64 * 1024  # is always taken: a few large and slow ones must not keep it out
QUOTE_BYTE = b'"'
QUOTE = ord(QUOTE_BYTE)
NUMBERS = b"0123456789,.:-+eE[]{} \t\r\n"  # what a list of numbers is made of
LONGEST_LOOKED_AT = 8
MOST_VALUES = 500_000  # of JSON in a body: members of its lists and objects


class Bodies:
    """Reads them, and counts the bytes of all that are on their way."""

    def __init__(
        self, max_bytes: int, timeout_s: float, longest_text: Callable[[], int | None]
    ) -> None:
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s
        self._longest_text = longest_text
        self._bytes_on_the_way = 0

    async def read(self, headers: Headers, receive: Receive) -> bytes:
        """The whole body. Raises a ServiceError for one that is not taken."""
        refuse_other_types(headers)
        declared = headers.get("content-length", "0")
        if declared.isdigit():
            self._refuse_large(int(declared))
        body = bytearray()
        try:
            async with asyncio.timeout(self._timeout_s):
                while await self._add_piece(body, receive):
                    pass
            await self._refuse_costly(body)
            return bytes(body)
        except TimeoutError:
            raise BodyTooSlowError(f"the body was not there within {self._timeout_s:g} s") from None
        finally:
            self._bytes_on_the_way -= len(body)
            body.clear()  # a refusal's traceback holds it while the connection lingers

    async def _add_piece(self, body: bytearray, receive: Receive) -> bool:
        """Whether more is to come."""
        message = await receive()
        piece = message.get("body", b"")
        body += piece
        self._bytes_on_the_way += len(piece)
        self._refuse_large(len(body))
        self._check_room(len(body))
        return bool(message.get("more_body", False))

    def _refuse_large(self, body_bytes: int) -> None:
        if body_bytes > self._max_bytes:
            raise BodyTooLargeError(
                f"the body is over {self._max_bytes} bytes: send fewer prompts at once"
            )

    async def _refuse_costly(self, body: bytearray) -> None:
        """Parsing JSON holds up all others, so what could only be refused is not parsed."""
        if len(body) <= SMALL_BODY:
            return
        _refuse_many_values(body)
        most = self._longest_text()
        if most is None:
            return
        longest = await asyncio.to_thread(_longest_text, bytes(body))
        if longest > most:
            raise InvalidRequestError(
                f"the body holds a text of {longest} bytes; this model has room for at most "
                f"{most}: shorten it",
                "body",
            )

    def _check_room(self, body_bytes: int) -> None:
        most = BODIES_AT_ONCE * self._max_bytes
        if body_bytes > SMALL_BODY and self._bytes_on_the_way > most:
            raise OverloadedError("too many large bodies at once: try again in 1 s", 1)


def takes_body(scope: Scope) -> bool:
    """Whether a body of this request is read."""
    path = scope["path"]
    return scope["method"] == "POST" and (path in WITH_BODY or path.startswith(V1))


def brings_unread_body(scope: Scope) -> bool:
    """Whether a body comes that nobody reads: the connection cannot be used again then."""
    headers = Headers(scope=scope)
    comes = "transfer-encoding" in headers or headers.get("content-length", "0") != "0"
    return comes and not takes_body(scope)


def refuse_other_types(headers: Headers) -> None:
    """Raise InvalidRequestError for what is not sent as JSON.

    A form of a foreign web page can send text to us, but no JSON without asking first.
    """
    sent = headers.get("content-type", "")
    kind = sent.partition(";")[0].strip().lower()
    if kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json")):
        return
    found = f"is {sent[:100]!r}" if sent else "is missing"
    raise InvalidRequestError(
        f"the header Content-Type {found}: send Content-Type: application/json", "content-type"
    )


def _longest_text(body: bytes) -> int:
    """Bytes between two quotation marks, at the most; NumPy lets other threads go on meanwhile."""
    import numpy as np  # late: /livez answers before it is loaded

    quotes = np.flatnonzero(np.frombuffer(body, np.uint8) == QUOTE)
    ends = np.concatenate(([0], quotes, [len(body)]))
    lengths = np.diff(ends)
    for start in np.argsort(lengths)[::-1][:LONGEST_LOOKED_AT]:
        span = body[ends[start] : ends[start + 1]]
        if span.strip(QUOTE_BYTE).translate(None, NUMBERS):  # else it is a list of token ids
            return len(span)
    return 0


def _refuse_many_values(body: bytearray) -> None:
    """A text of megabytes takes 20 ms, as many numbers twenty times as long."""
    values = sum(map(body.count, (b",", b"[", b"{")))
    if values > MOST_VALUES:
        raise BodyTooLargeError(
            f"the body has some {values} JSON values, at most {MOST_VALUES}: send fewer at once"
        )
