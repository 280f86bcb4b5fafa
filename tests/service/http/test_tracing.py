"""Spans as an OTLP collector receives them, over HTTP."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from service.http.otlp import PROTOCOL
from service.settings import Settings
from tests.service.conftest import Ask, ready
from tests.service.fake import FakeEngine

pytestmark = pytest.mark.anyio
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@contextmanager
def collector() -> Iterator[tuple[str, list[Any]]]:
    """Its address, and the spans that it got."""
    spans: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                for scope in resource.scope_spans:
                    spans.extend(scope.spans)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1/traces", spans
    finally:
        server.shutdown()
        server.server_close()


async def test_a_request_is_a_span_under_the_clients_and_above_the_engines(
    engine: FakeEngine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PROTOCOL, "http/protobuf")
    with collector() as (endpoint, spans):
        traced = settings.model_copy(update={"otlp_traces_endpoint": endpoint})
        async with ready(engine, traced) as client:
            answer = await client.post(
                "/generate",
                json={"prompt": "感冒", "parameters": {"max_tokens": 3}},
                headers={"traceparent": PARENT, "X-Request-Id": "mine"},
            )
            assert answer.status_code == 200
    (span,) = [span for span in spans if span.name == "POST /generate"]
    told = {a.key: a.value.string_value or a.value.int_value for a in span.attributes}
    assert span.trace_id.hex() == PARENT.split("-")[1]
    assert span.parent_span_id.hex() == PARENT.split("-")[2]
    assert told["mergeline.request_id"] == "mine"
    assert told["http.response.status_code"] == 200
    assert told["gen_ai.usage.output_tokens"] == 3
    engines = engine.requests[-1].trace["traceparent"].split("-")
    assert engines[1:3] == [span.trace_id.hex(), span.span_id.hex()]


async def test_without_an_endpoint_nothing_is_traced(ask: Ask, engine: FakeEngine) -> None:
    await ask(prompt="感冒")
    assert engine.requests[-1].trace == {}
