"""LoRA adapters served beside the model, each under a name."""

import json
from dataclasses import dataclass
from pathlib import Path

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # what vLLM's LoRA layers can be built for


@dataclass(frozen=True)
class Adapter:
    """One adapter directory as peft saves it; `number` is 1 or more, the engine's key for it."""

    name: str
    path: Path
    number: int


def parse_adapters(text: str) -> list[Adapter]:
    """The adapters that "name=directory name=directory …" names.

    Raises ValueError when the text is not of that form, or has a name twice.
    """
    adapters: list[Adapter] = []
    for number, item in enumerate(text.split(), start=1):
        name, equals, directory = item.partition("=")
        if not (name and equals and directory):
            raise ValueError(f"{item!r} is not name=directory")
        if any(name == other.name for other in adapters):
            raise ValueError(f"two adapters are called {name}")
        adapters.append(Adapter(name, Path(directory), number))
    return adapters


def rank_of(adapter: Adapter) -> int:
    """The adapter's rank.

    Raises ValueError when its directory holds no LoRA adapter.
    """
    path = adapter.path / "adapter_config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        if config["peft_type"] != "LORA":
            raise ValueError(f"{path}: {config['peft_type']} cannot be served beside the model")
        return max(map(int, (config["r"], *(config.get("rank_pattern") or {}).values())))
    except OSError as error:
        raise ValueError(f"{path}: cannot read it: {error.strerror}") from error
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path}: not a LoRA adapter's settings ({error})") from error


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
