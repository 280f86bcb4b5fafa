"""OpenTelemetry: a span a request, the parent of those that vLLM's engine makes for it."""

import os
from typing import Any

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc import trace_exporter as grpc
from opentelemetry.exporter.otlp.proto.http import trace_exporter as http
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.datastructures import Headers
from starlette.types import Scope

from service.http.tracing import Tracing
from service.request_record import record_of

PROTOCOL = "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"


class OTLPTracing(Tracing):
    """Sends spans to an OTLP collector.

    The protocol is gRPC, or http/protobuf when OpenTelemetry's own variable
    OTEL_EXPORTER_OTLP_TRACES_PROTOCOL says so (as for vLLM's spans).
    """

    def __init__(self, endpoint: str) -> None:
        exporter: Any
        if os.environ.get(PROTOCOL) == "http/protobuf":
            exporter = http.OTLPSpanExporter(endpoint=endpoint)
        else:
            exporter = grpc.OTLPSpanExporter(endpoint=endpoint, insecure=True)
        self._provider = TracerProvider(resource=Resource.create({SERVICE_NAME: "mergeline"}))
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("mergeline.service")
        self._propagator = TraceContextTextMapPropagator()

    def begin(self, scope: Scope, headers: Headers) -> Span:
        """A span for the request of `scope`, which gets the headers that name it to the engine."""
        span = self._tracer.start_span(
            f"{scope['method']} {scope['path']}",
            context=self._propagator.extract(dict(headers)),
            kind=trace.SpanKind.SERVER,
        )
        names = record_of(scope).trace
        self._propagator.inject(names, context=trace.set_span_in_context(span))
        # /v1 hands the request's own headers to the engine
        scope["headers"] = [
            *((name, value) for name, value in scope["headers"] if name.decode() not in names),
            *((name.encode(), value.encode()) for name, value in names.items()),
        ]
        return span

    def end(self, span: Span, fields: dict[str, Any]) -> None:
        """Close the span with the fields of the access log."""
        span.update_name(f"{fields['method']} {fields['route']}")
        span.set_attribute("http.request.method", fields["method"])
        span.set_attribute("http.route", fields["route"])
        span.set_attribute("http.response.status_code", fields["status"])
        span.set_attribute("mergeline.request_id", fields["request_id"])
        span.set_attribute("gen_ai.usage.input_tokens", fields["prompt_tokens"])
        span.set_attribute("gen_ai.usage.output_tokens", fields["completion_tokens"])
        if fields["status"] >= 500:
            span.set_status(Status(StatusCode.ERROR))
        span.end()

    def shutdown(self) -> None:
        """Send what has not been sent, vLLM's spans too: the process ends without atexit."""
        self._provider.shutdown()
        engines = trace.get_tracer_provider()
        if hasattr(engines, "shutdown"):
            engines.shutdown()
