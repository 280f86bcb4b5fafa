from pathlib import Path
from typing import Any

import pytest

from tests.paths import DEMO

SHARED = {"server", "bounded", "keyed", "impatient", "pair", "front"}
"""Fixtures that start engines for many files."""


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist looks for the mark
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With several workers, what shares an engine or a file goes to the same one."""
    for item in items:
        engines = SHARED.intersection(getattr(item, "fixturenames", ()))
        name = "-".join(sorted(engines)) or item.path.as_posix()
        item.add_marker(pytest.mark.xdist_group(name))


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """What asynchronous tests (`pytest.mark.anyio`) run on."""
    return "asyncio"


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A small LLaMA tokenizer with the llama chat template."""
    from training.demo.base import train_sentencepiece
    from training.model_directory.templates import read_template
    from training.model_directory.tokenizer import tokenizer_from_sentencepiece

    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    train_sentencepiece(
        ["感冒了怎么办？多喝水。发烧三天，咳嗽。" * 3, "hello world 12345"], 4140, path
    )
    made = tokenizer_from_sentencepiece(path, 4096)
    made.chat_template = read_template("llama")
    return made


@pytest.fixture(scope="session")
def demo() -> Path:
    """The demo that `make demo` builds: data, base, adapter, model."""
    if not (DEMO / "model" / "config.json").is_file():
        pytest.fail(f"{DEMO} is not built: run `make demo`")
    return DEMO
