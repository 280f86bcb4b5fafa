"""What can go wrong with a request, and how it is answered."""

from typing import Any


class ServiceError(Exception):
    """An answer other than 200: `message` says what, `param` where."""

    status = 500
    error_type = "internal_error"
    retry_after_s: int | None = None

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.message = _printable(message)
        self.param = None if param is None else _printable(param)

    def body(self, request_id: str | None) -> dict[str, Any]:
        """The JSON object of the HTTP contract."""
        return {
            "error": self.message,
            "error_type": self.error_type,
            "param": self.param,
            "request_id": request_id,
        }

    def headers(self) -> dict[str, str]:
        """Headers that go with the status."""
        return {} if self.retry_after_s is None else {"Retry-After": str(self.retry_after_s)}


def _printable(text: str) -> str:
    """A message may quote what was sent, and that need not be encodable."""
    return text.encode("utf-8", "backslashreplace").decode()


class InvalidRequestError(ServiceError):
    """The request itself is wrong; sending it again will not help."""

    status = 400
    error_type = "invalid_request"


class NotFoundError(ServiceError):
    """No such route, or not with this method."""

    status = 404
    error_type = "not_found"

    def __init__(self, message: str, status: int = 404) -> None:
        super().__init__(message)
        self.status = status


class BodyTooLargeError(ServiceError):
    """The body is over the configured limit."""

    status = 413
    error_type = "body_too_large"


class UnavailableError(ServiceError):
    """The model is loading, the service is draining, or the engine has died."""

    status = 503
    error_type = "unavailable"
    retry_after_s = 5
