import shutil
from pathlib import Path

import pytest

from tests.models import tiny_adapter, tiny_llama


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("merge")
    tiny_adapter(tiny_llama(root / "base"), root / "adapter")
    return root


@pytest.fixture
def base(shared: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(shared / "base", tmp_path / "base"))


@pytest.fixture
def adapter(shared: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(shared / "adapter", tmp_path / "adapter"))
