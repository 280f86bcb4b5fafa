"""What can go wrong with a request, and how it is answered."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ConfigDict, with_config
from starlette.responses import JSONResponse
from starlette.types import Scope
from typing_extensions import TypedDict

from service.request_record import record_of

ENGINE_GONE = "the engine has died or was given up; the service is stopping"
NO_TIME = "the service is stopping, and the time for running requests is over"


closed = with_config(ConfigDict(extra="forbid"))
"""Marks the type of a JSON object that has no further members."""


@closed
class ItemFailure(TypedDict):
    """Why one prompt of a list has no answer."""

    error: str
    error_type: str
    param: str | None


class ErrorBody(ItemFailure):
    """Every answer that is not 200, and the last event of a stream that failed."""

    request_id: str | None


class ServiceError(Exception):
    """An answer other than 200: `message` says what, `param` where."""

    status = 500
    error_type = "internal_error"
    retry_after_s: int | None = None

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.message = _printable(message)
        self.param = None if param is None else _printable(param)

    def failure(self) -> ItemFailure:
        """As the `error` of a list's item."""
        return {"error": self.message, "error_type": self.error_type, "param": self.param}

    def body(self, request_id: str | None) -> ErrorBody:
        """As the body of an answer."""
        return {**self.failure(), "request_id": request_id}

    def headers(self) -> dict[str, str]:
        """Headers that go with the status."""
        return {} if self.retry_after_s is None else {"Retry-After": str(self.retry_after_s)}


def answer(error: ServiceError, scope: Scope) -> JSONResponse:
    """The answer to the request of `scope`: in OpenAI's shape under /v1."""
    if not scope["path"].startswith("/v1/"):
        body = error.body(record_of(scope).request_id)
        return JSONResponse(body, error.status, error.headers())
    openai = {
        "message": error.message,
        "type": error.error_type,
        "param": error.param,
        "code": error.status,
    }
    return JSONResponse({"error": openai}, error.status, error.headers())


def _printable(text: str) -> str:
    """A message may quote what was sent, and that need not be encodable."""
    return text.encode("utf-8", "backslashreplace").decode()


class InvalidRequestError(ServiceError):
    """The request itself is wrong; sending it again will not help."""

    status = 400
    error_type = "invalid_request"


class NotFoundError(ServiceError):
    """No such route, or no such thing behind it."""

    status = 404
    error_type = "not_found"


class WrongMethodError(ServiceError):
    """There is such a route, but not with this method."""

    status = 405
    error_type = "wrong_method"

    def __init__(self, message: str, methods: list[str]) -> None:
        super().__init__(message)
        self._methods = methods

    def headers(self) -> dict[str, str]:
        """Says which methods it has."""
        return {"Allow": ", ".join(self._methods)}


class UnauthorizedError(ServiceError):
    """No key, or a wrong one."""

    status = 401
    error_type = "unauthorized"

    def headers(self) -> dict[str, str]:
        """Says how to give a key."""
        return {"WWW-Authenticate": "Bearer"}


class BodyTooSlowError(ServiceError):
    """The body did not arrive in time."""

    status = 408
    error_type = "body_too_slow"


class BodyTooLargeError(ServiceError):
    """The body is over the configured limit."""

    status = 413
    error_type = "body_too_large"


class UnavailableError(ServiceError):
    """The model is loading, the service is draining, or the engine has died."""

    status = 503
    error_type = "unavailable"
    retry_after_s = 5


class EngineDiedError(ServiceError):
    """The engine died or hung while it worked on this request, perhaps because of it.

    Not 503, which balancers and clients repeat elsewhere: the next engine might die, too.
    """

    status = 500
    error_type = "engine_died"


class OverloadedError(ServiceError):
    """As many prompts as the deployment allows are running and waiting."""

    status = 429
    error_type = "overloaded"

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class GenerationTimeoutError(ServiceError):
    """`timeout_s` is over; the engine has stopped working on the prompt."""

    status = 504
    error_type = "timeout"


def first_problem(details: Sequence[Mapping[str, Any]]) -> InvalidRequestError:
    """The error to answer with: the first field that is wrong, as deep as pydantic saw into it."""
    params = [_param(detail["loc"]) for detail in details]
    deepest = max((param for param in params if param.startswith(params[0])), key=len)
    return _problem(details[params.index(deepest)], deepest)


def _problem(detail: Mapping[str, Any], param: str) -> InvalidRequestError:
    if detail["type"] == "json_invalid":
        return InvalidRequestError(f"the body is not JSON: {detail['ctx']['error']}", "body")
    if detail["type"] == "extra_forbidden":
        return InvalidRequestError(f"unknown field {param!r}; GET /docs lists all", param)
    if param == "prompt" and detail["type"] in ("string_type", "list_type"):
        return InvalidRequestError("prompt: must be a string or a list of strings", param)
    message = str(detail["msg"]).removeprefix("Value error, ")
    return InvalidRequestError(f"{param}: {message}" if param else message, param or "body")


def _param(loc: Sequence[int | str]) -> str:
    """A field's path, without the members of unions ("list[str]") that pydantic puts into it."""
    path = [part for part in loc if part != "body"]
    depth = 2 if path[:1] == ["parameters"] else 1
    return ".".join(map(str, [*path[:depth], *filter(_is_number, path[depth:])]))


def _is_number(part: int | str) -> bool:
    return isinstance(part, int)
