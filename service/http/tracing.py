"""A span for each request, where an OpenTelemetry collector is named; else nothing."""

from typing import Any

from starlette.datastructures import Headers
from starlette.types import Scope


class Tracing:
    """Without a collector: no spans."""

    def begin(self, scope: Scope, headers: Headers) -> Any:
        """A span for the request of `scope`, which gets the headers that name it to the engine."""

    def end(self, span: Any, fields: dict[str, Any]) -> None:
        """Close the span with the fields of the access log."""

    def shutdown(self) -> None:
        """Send what has not been sent, vLLM's spans too: the process ends without atexit."""


def tracing_to(endpoint: str | None) -> Tracing:
    """Spans to the OTLP collector at `endpoint`, or none without one."""
    if not endpoint:
        return Tracing()
    from service.http.otlp import OTLPTracing  # late: /livez does not wait for gRPC

    return OTLPTracing(endpoint)
