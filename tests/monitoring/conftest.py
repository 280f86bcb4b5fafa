from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.balancer import Names, balancing
from tests.monitoring import traffic
from tests.monitoring.prometheus import Prometheus, watching
from tests.monitoring.promql import Series
from tests.server import free_port, serving

TRAFFIC_S = 8


@pytest.fixture(scope="package")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("monitoring")


@pytest.fixture(scope="package")
def front(demo: Path, folder: Path) -> Iterator[tuple[str, Mapping[str, str]]]:
    """A server behind the balancer: the URL for clients, and by job those that are scraped."""
    bounds: dict[str, Any] = {"max_num_seqs": 2, "max_queued_prompts": 1, "cpu_kvcache_gib": 1}
    port = free_port()
    with (
        balancing(Names(["127.0.0.1"]), port, folder / "balancer.log") as balancer,
        serving(demo / "model", folder / "server.log", port=port, **bounds) as server,
    ):
        balancer.wait_servers(1)
        yield balancer.url, {"serve": server.url, "balancer": balancer.metrics_url}


@pytest.fixture(scope="package")
def scraped(front: tuple[str, Mapping[str, str]]) -> Sequence[Series]:
    """What both jobs give after some traffic, with the labels that Prometheus adds."""
    url, jobs = front
    traffic.send(url)
    return [
        Series(sample.name, sample.labels | {"job": job, "instance": at})
        for job, at in jobs.items()
        for family in text_string_to_metric_families(httpx.get(f"{at}/metrics", timeout=60).text)
        for sample in family.samples
    ]


@pytest.fixture(scope="package")
def prometheus(front: tuple[str, Mapping[str, str]], folder: Path) -> Iterator[Prometheus]:
    """The real Prometheus, after some seconds of traffic."""
    url, jobs = front
    with watching(jobs, folder) as running:
        traffic.send_for(url, TRAFFIC_S)
        yield running
