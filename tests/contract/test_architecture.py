"""ARCHITECTURE.md's lists: every file on the way of a request, a row, a weight, in call order."""

import asyncio
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from inspect import CO_OPTIMIZED
from pathlib import Path
from types import FrameType
from typing import Any

import httpx

from service.settings import Settings
from tests.models import tiny_adapter, tiny_llama
from tests.paths import ROOT
from tests.service.conftest import running, until_ready
from tests.service.fake import FakeEngine
from tests.training.conftest import write_recipe
from training.merge.job import merge
from training.train import session  # noqa: F401 - imported late, and an import calls functions too
from training.train.config import load_config
from training.train.job import train


def listed(life: str) -> list[str]:
    """The files of one section, in its order."""
    text = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
    section = text.split(f"## The life of {life}\n")[1].split("\n## ")[0]
    return re.findall(r"^\d+\. `([a-z0-9_/]+\.py)`", section, flags=re.MULTILINE)


@contextmanager
def called(program: str) -> Iterator[list[str]]:
    """The program's files, each where a function of it was first called; threads' too."""
    root, files = f"{ROOT / program}/", dict[str, None]()

    def note(frame: FrameType, event: str, _: Any) -> None:
        name = frame.f_code.co_filename
        function = frame.f_code.co_flags & CO_OPTIMIZED  # no module's body, no class's
        if event == "call" and name.startswith(root) and function:
            files.setdefault(name.removeprefix(f"{ROOT}/"))

    order: list[str] = []
    threading.setprofile(note)
    sys.setprofile(note)
    try:
        yield order
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
        order += files


def in_order(listed: list[str], called: list[str]) -> None:
    assert len(listed) > 5
    missing = [path for path in listed if path not in called]
    assert not missing, f"never called: {missing}"
    assert listed == sorted(listed, key=called.index), called


def test_the_life_of_a_request(tokenizer: Any, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    settings = Settings(model=tmp_path)

    async def ask() -> list[str]:
        async with running(FakeEngine(tokenizer), settings) as client:
            await until_ready(client)
            with called("service") as files:
                answer = await client.post("/generate", json={"prompt": "感冒了怎么办？"})
            assert answer.status_code == httpx.codes.OK
            return files

    in_order(listed("a request"), asyncio.run(ask()))


def test_the_life_of_a_training_row(tmp_path: Path, tokenizer: Any) -> None:
    base = tiny_llama(tmp_path / "base", vocab_size=4140)
    tokenizer.save_pretrained(base)
    recipe = write_recipe(tmp_path, base)
    with called("training") as files:
        train(load_config(recipe, []))
    in_order(listed("a training row"), files)


def test_the_life_of_a_weight(tmp_path: Path) -> None:
    base = tiny_llama(tmp_path / "base")
    adapter = tiny_adapter(base, tmp_path / "adapter")
    with called("training") as files:
        merge(base, [adapter], tmp_path / "merged")
    in_order(listed("a weight"), files)
