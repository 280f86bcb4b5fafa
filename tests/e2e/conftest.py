from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server import ServerProcess, serving

HERE = Path(__file__).parent


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
