"""The files of a merged model beside its weights: config, tokenizer, chat template."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from shutil import copyfile
from typing import Any

from training.files import JsonObject, parsing, read_json, write_json
from training.model_directory.directory import TIES, ModelDirectory
from training.model_directory.token_ids import (
    check_vocabulary,
    correct_ids,
    read_tokens,
    roles_by_id,
)
from training.model_directory.tokenizer_files import (
    TOKENIZER_CONFIG,
    finish_tokenizer,
    own_template,
)

# Data only: Python files beside a checkpoint are never copied.
TOKENIZER_FILES = (
    *("tokenizer.json", "special_tokens_map.json", "added_tokens.json"),
    *("tokenizer.model", "vocab.json", "merges.txt", "vocab.txt", "chat_template.jinja"),
)
VOCABULARIES = ("tokenizer.json", "tokenizer.model")  # either one makes a tokenizer


def copy_model_files(
    base: ModelDirectory,
    adapters: Sequence[Path],
    output: Path,
    changes: JsonObject,
    rows: int | None,
    chat: str | None = None,
) -> list[str]:
    """Copy config, generation_config and tokenizer to `output`; return notes for the user.

    The tokenizer comes from the last adapter that carries one, else from the base. `changes` are
    made to the config; its key `dtype` goes by the config's own spelling, and is no change where
    None. `rows` is the number of embedding rows, None when unknown; `chat` a template's text to
    take in place of the tokenizer's own.
    Raises TrainingError when the tokenizer needs more rows than there are, or tokenizer.json cannot
    be made from its tokenizer.model.
    """
    notes = _write_data(changed_config(base.config, changes), output / "config.json")
    source = next(filter(has_tokenizer, reversed(adapters)), base.path)
    tokens = read_tokens(source)
    check_vocabulary(source, tokens, rows)
    _copy_files(base.path, ["generation_config.json"], output)
    _copy_files(source, TOKENIZER_FILES, output)
    if (source / TOKENIZER_CONFIG).exists():
        config = read_json(source / TOKENIZER_CONFIG)
        if (source / "tokenizer.json").exists():
            config["tokenizer_class"] = "PreTrainedTokenizerFast"  # others may not load that file
            config |= roles_by_id(base.config, tokens)
        notes += _write_data(config, output / TOKENIZER_CONFIG)
    if source != base.path and chat is None and own_template(output) is None:
        chat = own_template(base.path)
        notes += [f"the chat template is the base's: {source.name} has none"] if chat else []
    if has_tokenizer(output):
        context = base.config.get("max_position_embeddings")
        with parsing(source, "a directory whose tokenizer files fit together"):
            notes += finish_tokenizer(output, chat, context)
        return notes + correct_ids(output, rows)
    return [*notes, f"{source} has no tokenizer: serving needs tokenizer.json in the model"]


def changed_config(config: JsonObject, changes: JsonObject) -> dict[str, Any]:
    """The config with `changes`; one that nests its language model's settings has them there."""
    changes = dict(changes)
    if dtype := changes.pop("dtype", None):
        present = [key for key in ("torch_dtype", "dtype") if key in config]
        changes |= dict.fromkeys(present or ["dtype"], dtype)
    return {**config, **changes, **_nested(config, changes)}


def _nested(config: JsonObject, changes: JsonObject) -> dict[str, Any]:
    settings = config.get("text_config")
    if not isinstance(settings, dict):
        return {}
    inner = {key: value for key, value in changes.items() if key in (TIES, "vocab_size")}
    return {"text_config": {**settings, **inner}}


def has_tokenizer(directory: Path) -> bool:
    """Whether a tokenizer can be loaded, or made, from what is there."""
    return any((directory / name).exists() for name in VOCABULARIES)


def _copy_files(source: Path, names: Iterable[str], output: Path) -> None:
    for name in names:
        if (source / name).exists():
            copyfile(source / name, output / name)


def _write_data(config: dict[str, Any], target: Path) -> list[str]:
    """Write the config without auto_map, which makes loaders run the directory's code."""
    dropped = config.pop("auto_map", None)
    write_json(target, config)
    return [f"auto_map was dropped from {target.name}: no code is copied"] if dropped else []
