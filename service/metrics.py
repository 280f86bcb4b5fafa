"""The service's own Prometheus metrics; vLLM's (vllm:*) live in the process's global registry."""

from prometheus_client import (
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)

SECONDS = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


class Metrics:
    """One registry for each app, so that tests can make many apps in one process."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._count()
        self._measure()
        self._show()

    def _count(self) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"mergeline_{name}", text, labels, registry=self._registry)

        self.requests = counter(
            "requests",
            "HTTP requests answered, by route and outcome (ok, client_error, error, aborted)",
            "route",
            "outcome",
        )
        self.prompts = counter(
            "prompts", "Prompts generated for, by outcome (ok, error, timeout, aborted)", "outcome"
        )
        self.tokens = counter("tokens", "Tokens, by kind (prompt, completion)", "kind")
        self.rejections = counter(
            "rejections",
            "Requests refused before they reached the engine, by reason "
            "(queue_full, overloaded, unauthorized, not_found, body_too_large, body_too_slow, "
            "unavailable)",
            "reason",
        )
        self.aborts = counter("aborts", "Requests ended by POST /abort")

    def _measure(self) -> None:
        def histogram(name: str, text: str, *labels: str) -> Histogram:
            name = f"mergeline_{name}_seconds"
            return Histogram(name, text, labels, buckets=SECONDS, registry=self._registry)

        self.duration = histogram(
            "request", "From a request's head to the end of its answer, by route", "route"
        )
        self.queue_wait = histogram(
            "queue_wait", "How long a prompt waited in the engine before its first step"
        )
        self.first_token = histogram(
            "time_to_first_token", "From a prompt's arrival in the engine to its first token"
        )

    def _show(self) -> None:
        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"mergeline_{name}", text, labels, registry=self._registry)

        self.prompts_in_flight = gauge("prompts_in_flight", "Prompts running and waiting")
        self.in_flight = gauge("requests_in_flight", "Generation requests under way")
        self.state = gauge("state", "1 for the state the service is in, 0 for the others", "state")

    def render(self) -> bytes:
        """The text that Prometheus scrapes."""
        return generate_latest(self._registry) + generate_latest(REGISTRY)
