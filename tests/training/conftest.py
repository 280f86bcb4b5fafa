import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.models import tiny_adapter, tiny_llama

ROWS = [{"input": f"问题{i}" * (1 + i % 4), "target": "是" if i % 2 else "不是"} for i in range(24)]


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


@pytest.fixture(scope="session")
def base_model(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    """A tiny LLaMA with a tokenizer."""
    path = tiny_llama(tmp_path_factory.mktemp("base"), vocab_size=4140)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def wide_base(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    """The same with rows of 64 weights and more, as NF4 needs."""
    return wide_llama(tmp_path_factory.mktemp("wide"), tokenizer)


def wide_llama(path: Path, tokenizer: Any, **sizes: Any) -> Path:
    sizes = {"hidden_size": 64, "intermediate_size": 128, "vocab_size": 4140} | sizes
    tokenizer.save_pretrained(path)
    return tiny_llama(path, **sizes)


@pytest.fixture
def recipe(tmp_path: Path, base_model: Path) -> Path:
    """LoRA on `base_model` in six updates of four samples; the adapter goes to tmp_path/adapter."""
    return write_recipe(tmp_path, base_model)


def messages(question: str, answer: str) -> list[dict[str, str]]:
    said = {"user": question, "assistant": answer}
    return [{"role": role, "content": text} for role, text in said.items()]


def mixture(folder: Path, *weights: float) -> str:
    """The setting of both files that `write_recipe` writes, in these shares."""
    files = zip(("train.json", "more.json"), weights, strict=True)
    parts = [{"path": str(folder / name), "weight": weight, "cap": 9} for name, weight in files]
    return f"data.train={json.dumps(parts)}"


def write_recipe(folder: Path, base_model: Path) -> Path:
    """Write `folder`/recipe.yaml, its data and more; the adapter goes to `folder`/adapter."""
    data = folder / "train.json"
    more = [{"messages": messages(f"更多{i}", f"好{i % 3}")} for i in range(11)]
    for path, rows in ((data, ROWS), (folder / "more.json", more)):
        path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), "utf-8")
    settings = {
        "model": str(base_model),
        "output": str(folder / "adapter"),
        "template": "llama",
        "precision": "fp32",
        "save_every": 2,
        "save_keep": 2,
        "log_every": 1,
        "data": {"train": str(data), "eval": str(data)},
        "lora": {"r": 4, "alpha": 8, "dropout": 0.1},
        "optim": {"lr": 1e-2, "steps": 6, "batch_size": 4},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(settings), "utf-8")
    return path
