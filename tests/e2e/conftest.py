from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.e2e.browser import chromium
from tests.server import ServerProcess, serving

HERE = Path(__file__).parent
SEQUENCES, QUEUED = 3, 4
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


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Not for the whole session: its event loop would be in the way of others' asyncio.run."""
    with chromium() as ready:
        yield ready
