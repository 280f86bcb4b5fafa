from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.balanced.replicas import Replicas, replicas


@pytest.fixture(scope="package")
def pair(demo: Path, noise: Path, logs: Path) -> Iterator[Replicas]:
    with replicas(demo, noise, logs) as both:
        yield both


@pytest.fixture
def scaled(pair: Replicas) -> Replicas:
    """Two servers behind the balancer, both up."""
    return pair.whole()
