"""A server for hostile traffic, shared by the tests of this folder."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.server import ServerProcess, serving

STALL_S = 2
BOSS = {"Authorization": "Bearer boss"}


@pytest.fixture(scope="package")
def impatient(demo: Path, logs: Path) -> Iterator[ServerProcess]:
    """Gives an engine up that computes nothing for two seconds."""
    settings = {
        "served_name": "base",
        "admin_keys": "boss",
        "max_adapters": 2,
        "max_adapter_rank": 8,
        "stall_timeout_s": STALL_S,
        "max_model_len": 1024,
        "cpu_kvcache_gib": 1,
    }
    with serving(demo / "base", logs / "hostile.log", **settings) as ready:
        yield ready


@pytest.fixture
def http(impatient: ServerProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=impatient.url, timeout=120) as client:
        yield client
    assert httpx.get(impatient.url + "/readyz", timeout=10).status_code == 200
