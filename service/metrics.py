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
        self.requests = Counter(
            "mergeline_requests",
            "HTTP requests answered, by route and outcome (ok, client_error, error, aborted)",
            ["route", "outcome"],
            registry=self._registry,
        )
        self.prompts = Counter(
            "mergeline_prompts",
            "Prompts generated for, by outcome (ok, error, timeout, aborted)",
            ["outcome"],
            registry=self._registry,
        )
        self.tokens = Counter(
            "mergeline_tokens",
            "Tokens, by kind (prompt, completion)",
            ["kind"],
            registry=self._registry,
        )
        self.rejections = Counter(
            "mergeline_rejections",
            "Requests refused before they reached the engine, by reason "
            "(queue_full, unauthorized, body_too_large, body_too_slow, unavailable)",
            ["reason"],
            registry=self._registry,
        )
        self.aborts = Counter(
            "mergeline_aborts",
            "Requests ended by POST /abort",
            registry=self._registry,
        )
        self.duration = Histogram(
            "mergeline_request_seconds",
            "From a request's head to the end of its answer, by route",
            ["route"],
            buckets=SECONDS,
            registry=self._registry,
        )
        self.queue_wait = Histogram(
            "mergeline_queue_wait_seconds",
            "How long a prompt waited in the engine before its first step",
            buckets=SECONDS,
            registry=self._registry,
        )
        self.first_token = Histogram(
            "mergeline_time_to_first_token_seconds",
            "From a prompt's arrival in the engine to its first token",
            buckets=SECONDS,
            registry=self._registry,
        )
        self.prompts_in_flight = Gauge(
            "mergeline_prompts_in_flight",
            "Prompts running and waiting",
            registry=self._registry,
        )
        self.in_flight = Gauge(
            "mergeline_requests_in_flight",
            "Generation requests under way",
            registry=self._registry,
        )
        self.state = Gauge(
            "mergeline_state",
            "1 for the state the service is in, 0 for the others",
            ["state"],
            registry=self._registry,
        )

    def render(self) -> bytes:
        """The text that Prometheus scrapes."""
        return generate_latest(self._registry) + generate_latest(REGISTRY)
