"""The record of one HTTP request, which all layers from the gate to the engine share."""

from dataclasses import dataclass, field

from starlette.types import Scope

KEY = "mergeline.record"


@dataclass
class RequestRecord:
    """What the access log, the traces and error bodies say about a request."""

    request_id: str
    method: str = "GET"
    """As it was sent: a HEAD is answered as a GET."""
    owner: str = ""
    """Tells the API keys apart where there are several, else empty."""
    trace: dict[str, str] = field(default_factory=dict)
    """W3C trace context headers of its span; empty without a collector."""
    prompt_tokens: int = 0
    completion_tokens: int = 0


def record_of(scope: Scope) -> RequestRecord:
    """The record that the gate has put into an ASGI scope."""
    record: RequestRecord = scope[KEY]
    return record
