"""LoRA adapters served beside the model, each under a name."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.errors import first_problem

NAME = re.compile("[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}")
"""Of adapters: a dot at the beginning would be read as part of a path by many clients."""
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # what vLLM's LoRA layers can be built for


@dataclass(frozen=True)
class Adapter:
    """One adapter directory as peft saves it; `number` is 1 or more, the engine's key for it."""

    name: str
    path: Path
    number: int
    fingerprint: str = ""
    """Of its files when they were loaded."""


def parse_adapters(text: str) -> list[Adapter]:
    """The adapters that "name=directory name=directory …" names.

    Raises ValueError when the text is not of that form, or has a name twice.
    """
    adapters = [_parse_adapter(item, number) for number, item in enumerate(text.split(), start=1)]
    names = [adapter.name for adapter in adapters]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two adapters are called {name}")
    return adapters


def _parse_adapter(item: str, number: int) -> Adapter:
    name, _, directory = item.partition("=")
    if not (directory and NAME.fullmatch(name)):
        raise ValueError(f"{item!r} is not name=directory; a name is {NAME.pattern}")
    return Adapter(name, Path(directory), number)


def rank_of(adapter: Adapter) -> int:
    """The adapter's rank.

    Raises ValueError when its directory holds no LoRA adapter.
    """
    path = adapter.path / "adapter_config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: cannot read it: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON: {error}") from error
    try:
        settings = _Settings.model_validate(config)
    except ValidationError as error:
        problem = first_problem(error.errors()).message
        raise ValueError(f"{path}: not a LoRA adapter's settings ({problem})") from error
    if settings.peft_type != "LORA":
        raise ValueError(f"{path}: {settings.peft_type} cannot be served beside the model")
    return max(settings.r, *(settings.rank_pattern or {}).values(), 1)


class _Settings(BaseModel):
    """What is read of adapter_config.json."""

    model_config = ConfigDict(strict=True)

    peft_type: str
    r: int = Field(1, ge=1, lt=2**31)
    rank_pattern: dict[str, Annotated[int, Field(ge=1, lt=2**31)]] | None = None


def smallest_supported_rank(adapters: list[Adapter]) -> int:
    """The smallest rank that vLLM can be built for and that holds every adapter.

    Raises ValueError when a directory holds no LoRA adapter, or one of a rank beyond all of them.
    """
    return supported_rank(max(rank_of(adapter) for adapter in adapters))


def supported_rank(most: int) -> int:
    """The smallest rank that vLLM can be built for and that is not below `most`.

    Raises ValueError when there is none.
    """
    for rank in RANKS:
        if rank >= most:
            return rank
    raise ValueError(f"an adapter of rank {most} cannot be served beside the model: merge it")
