"""The files of a merged model beside its weights: config, tokenizer, chat template."""

from collections.abc import Sequence
from pathlib import Path
from shutil import copyfile
from typing import Any

from training.errors import TrainingError
from training.files import read_json, write_json

# Data only: Python files beside a checkpoint are never copied.
TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("tokenizer.model", "vocab.json", "merges.txt", "vocab.txt", "chat_template.jinja"),
)


def read_config(base: Path) -> dict[str, Any]:
    """Return the base's config.json; a quantised base is refused."""
    config = read_json(base / "config.json")
    if config.get("quantization_config"):
        raise TrainingError(f"{base} is quantised: merge into the model it was quantised from")
    return config


def copy_model_files(
    base: Path, adapters: Sequence[Path], output: Path, dtype: str | None
) -> list[str]:
    """Copy config, generation_config and tokenizer to `output`; return notes for the user.

    The tokenizer comes from the last adapter that carries tokenizer.json, else from the base.
    `dtype` is written into the config when given.
    """
    config = read_config(base)
    if dtype:
        present = [key for key in ("torch_dtype", "dtype") if key in config]
        config |= dict.fromkeys(present or ["dtype"], dtype)
    notes = _write_data(config, output / "config.json")
    if (base / "generation_config.json").exists():
        copyfile(base / "generation_config.json", output / "generation_config.json")
    carriers = [path for path in adapters if (path / "tokenizer.json").exists()]
    source = carriers[-1] if carriers else base
    if carriers:
        _check_vocabulary(source / "tokenizer.json", config.get("vocab_size"))
    return [*notes, *_copy_tokenizer(source, output)]


def _copy_tokenizer(source: Path, output: Path) -> list[str]:
    notes = []
    for name in TOKENIZER_FILES:
        if name == "tokenizer_config.json" and (source / name).exists():
            notes += _write_data(read_json(source / name), output / name)
        elif (source / name).exists():
            copyfile(source / name, output / name)
    if not (output / "tokenizer.json").exists():
        notes.append(f"{source} has no tokenizer.json: serving needs one beside the weights")
    return notes


def _write_data(config: dict[str, Any], target: Path) -> list[str]:
    """Write the config without auto_map, which would ask loaders to run the directory's code."""
    dropped = config.pop("auto_map", None)
    write_json(target, config)
    return [f"auto_map was dropped from {target.name}: no code is copied"] if dropped else []


def _check_vocabulary(path: Path, size: int | None) -> None:
    tokenizer = read_json(path)
    vocabulary = tokenizer.get("model", {}).get("vocab", [])
    added = [token["id"] for token in tokenizer.get("added_tokens", [])]
    ids = vocabulary.values() if isinstance(vocabulary, dict) else range(len(vocabulary))
    needed = max([*ids, *added], default=-1) + 1
    if size is not None and needed > size:
        raise TrainingError(
            f"{path} needs {needed} embedding rows, the base has {size}:"
            " adapters with a grown vocabulary are not supported"
        )
