import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser

from tests.e2e.page.browser import chromium
from tests.models import tiny_adapter
from tests.server import ServerProcess, serving

HERE = Path(__file__).parent
SEQUENCES, QUEUED = 3, 4
PLACES = 4
KEYS = {"client": "the-client's-key", "admin": "the-admins-key"}
HEAD_TIMEOUT_S = BODY_TIMEOUT_S = 3


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("e2e")


@pytest.fixture(scope="session")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("logs")


@pytest.fixture(scope="session")
def server(demo: Path, logs: Path) -> Iterator[ServerProcess]:
    """The demo's fine-tuned model in float32, for every test that leaves it running."""
    with serving(demo / "model", logs / "server.log") as ready:
        yield ready


@pytest.fixture(scope="session")
def bounded(demo: Path, logs: Path) -> Iterator[ServerProcess]:
    """A server with few places and little patience."""
    bounds = {
        "max_num_seqs": SEQUENCES,
        "max_queued_prompts": QUEUED,
        "head_timeout_s": HEAD_TIMEOUT_S,
        "body_timeout_s": BODY_TIMEOUT_S,
        "max_body_bytes": 4 * 2**20,
        "cpu_kvcache_gib": 1,
    }
    with serving(demo / "model", logs / "bounded.log", **bounds) as ready:
        yield ready


@pytest.fixture(scope="session")
def noise(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random adapter for the demo's base."""
    return tiny_adapter(demo / "base", tmp_path_factory.mktemp("adapters") / "noise", std=0.2)


@pytest.fixture(scope="session")
def keyed(demo: Path, noise: Path, logs: Path) -> Iterator[ServerProcess]:
    """The demo's base behind keys, with two adapters beside it and room for a third."""
    keys = logs / "keys"
    keys.write_text(KEYS["client"])
    settings = {
        "adapters": f"medical={demo / 'adapter'} noise={noise}",
        "max_adapters": 3,
        "api_key_file": keys,
        "admin_keys": KEYS["admin"],
        "max_num_seqs": PLACES,
        "default_parameters": json.dumps({"max_tokens": 24}),
        "presets": json.dumps({"short": {"max_tokens": 5, "ignore_eos": True}}),
        "log_format": "json",
        "cpu_kvcache_gib": 1,
    }
    with serving(demo / "base", logs / "keyed.log", **settings) as ready:
        yield ready


def _client(server: ServerProcess, key: str) -> httpx.Client:
    headers = {"Authorization": f"Bearer {key}"}
    return httpx.Client(base_url=server.url, headers=headers, timeout=120)


@pytest.fixture
def client(keyed: ServerProcess) -> Iterator[httpx.Client]:
    with _client(keyed, KEYS["client"]) as ready:
        yield ready


@pytest.fixture
def admin(keyed: ServerProcess) -> Iterator[httpx.Client]:
    with _client(keyed, KEYS["admin"]) as ready:
        yield ready


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Not for the whole session: its event loop would be in the way of others' asyncio.run."""
    with chromium() as ready:
        yield ready
