"""The service's own Prometheus metrics; vLLM's (vllm:*) live in the process's global registry."""

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, generate_latest


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
            "Prompts generated for, by outcome (ok, error, aborted)",
            ["outcome"],
            registry=self._registry,
        )
        self.tokens = Counter(
            "mergeline_tokens",
            "Tokens, by kind (prompt, completion)",
            ["kind"],
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
