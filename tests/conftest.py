from pathlib import Path
from typing import Any

import pytest

from tests.paths import DEMO


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A small LLaMA tokenizer with the llama chat template."""
    from training.demo.base import train_sentencepiece
    from training.rendering import read_template
    from training.tokenizer import tokenizer_from_sentencepiece

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
