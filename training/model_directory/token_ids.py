"""The ids of a tokenizer's tokens: how many rows they need, and which ones the configs name."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from training.errors import TrainingError
from training.files import JsonObject, parsing, read_json, read_optional_json, write_json
from training.model_directory.tokenizer import read_sentencepiece
from training.model_directory.tokenizer_files import TOKENIZER_CONFIG, own_template, read_roles

CONFIGS = ("config.json", "generation_config.json")


def correct_ids(directory: Path, rows: int | None) -> list[str]:
    """Bring the ids of a written model directory in line with its tokenizer; return notes.

    Training ends answers with the tokenizer's EOS, so decoding must stop there: it joins the ids
    that the configs stop at. Their BOS becomes the tokenizer's; ids outside of the `rows` of the
    embeddings go. The first conversions of LLaMA, such as decapoda-research's, have all of them
    wrong.
    """
    ids = read_token_ids(directory)
    with parsing(directory / TOKENIZER_CONFIG, "the settings of a tokenizer"):
        tokens = {role: ids[token] for role, token in _roles(directory) if token in ids}
    notes = []
    for name in CONFIGS:
        before = read_optional_json(directory / name)
        with parsing(directory / name, "a configuration with ids of tokens"):
            after = _corrected(before, tokens, rows)
        if after != before:
            write_json(directory / name, after)
            changed = sorted(key for key in before if after.get(key) != before[key])
            notes.append(f"{', '.join(changed)} in {name} did not fit the tokenizer: corrected")
    return notes


def _corrected(config: dict[str, Any], tokens: dict[str, int], rows: int | None) -> dict[str, Any]:
    limit = sys.maxsize if rows is None else rows
    changed = {**config, **dict.fromkeys(_outside(config, limit))}
    if "bos_token" in tokens and isinstance(config.get("bos_token_id"), int):
        changed["bos_token_id"] = tokens["bos_token"]
    if "eos_token" in tokens and config.get("eos_token_id") is not None:
        changed["eos_token_id"] = _ends(config["eos_token_id"], tokens, limit)
    return changed


def _outside(config: JsonObject, limit: int) -> list[str]:
    """The roles whose ids have no row."""
    ids = {key: config.get(key) for key in ("bos_token_id", "pad_token_id")}
    return [key for key, i in ids.items() if isinstance(i, int) and not 0 <= i < limit]


def _ends(ends: int | list[int], tokens: dict[str, int], limit: int) -> int | list[int]:
    """Where decoding stops: as before if the tokenizer's EOS is there, else at it as well."""
    listed, eos = ends if isinstance(ends, list) else [ends], tokens["eos_token"]
    if eos in listed:
        return ends
    others = [end for end in listed if 0 <= end < limit and end != tokens.get("bos_token")]
    return [eos, *others] if others else eos


def check_vocabulary(source: Path, rows: int | None) -> None:
    """Raise TrainingError when the tokenizer in `source` has ids beyond the embeddings' `rows`."""
    if rows is not None and (needed := count_rows(source)) > rows:
        raise TrainingError(
            f"the tokenizer in {source} needs {needed} embedding rows, the model has {rows}: add"
            " the adapter that holds the grown embeddings, or use the tokenizer that belongs to"
            " the model (tokens that were added to it, such as [PAD], have no rows until the"
            " embeddings are resized)"
        )


def roles_by_id(config: JsonObject, directory: Path) -> dict[str, str]:
    """Return BOS and EOS where the tokenizer in `directory` names none and `config` has their ids.

    GPT-2's tokenizer leaves them to its class.
    """
    known = {role for role, _ in _roles(directory)}
    tokens = {number: token for token, number in read_token_ids(directory).items()}
    ids = {role: config.get(f"{role}_id") for role in ("bos_token", "eos_token")}
    return {
        role: tokens[number]
        for role, number in ids.items()
        if role not in known and isinstance(number, int) and number in tokens
    }


def count_rows(directory: Path) -> int:
    """Return how many embedding rows the tokenizer in `directory` needs; 0 without one.

    Control tokens that have no role and are not in the chat template do not count: no text leads
    to them. Gemma 3's tokenizer has one for images, whose row its text-only models lack.
    """
    with parsing(directory, "a directory whose tokenizer files fit together"):
        template = own_template(directory) or ""
        roles = {token for _, token in _roles(directory)}
        met = {token for token in _control_tokens(directory) if token in template} | roles
        unmet = {*_control_tokens(directory)} - met
        ids = read_token_ids(directory)
        return max((ids[token] for token in ids.keys() - unmet), default=-1) + 1


def read_token_ids(directory: Path) -> dict[str, int]:
    """Return the ids of a tokenizer's tokens by their text, of a list of pieces by their place.

    Raises TrainingError for files that are no tokenizer; empty when there are none.
    """
    if (directory / "tokenizer.json").exists():
        return _ids_in_json(directory / "tokenizer.json")
    if (directory / "tokenizer.model").exists():
        pieces = read_sentencepiece(directory / "tokenizer.model").pieces
        added = read_optional_json(directory / "added_tokens.json")
        return {**{piece.piece: number for number, piece in enumerate(pieces)}, **added}
    return {}


def _ids_in_json(path: Path) -> dict[str, int]:
    with parsing(path, "a tokenizer of the tokenizers library"):
        tokenizer = read_json(path)
        vocabulary = tokenizer.get("model", {}).get("vocab", {})
        if not isinstance(vocabulary, dict):
            vocabulary = {piece: number for number, (piece, _) in enumerate(vocabulary)}
        added = {token["content"]: token["id"] for token in tokenizer.get("added_tokens", [])}
        return {token: int(number) for token, number in (vocabulary | added).items()}


def _control_tokens(directory: Path) -> list[str]:
    tokenizer = read_optional_json(directory / "tokenizer.json")
    return [each["content"] for each in tokenizer.get("added_tokens", []) if each.get("special")]


def _roles(directory: Path) -> Iterator[tuple[str, str]]:
    return read_roles(directory, read_optional_json(directory / TOKENIZER_CONFIG))
