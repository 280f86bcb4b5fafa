"""The ids of a tokenizer's tokens: how many rows they need, and which ones the configs name."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.errors import TrainingError
from training.files import JsonObject, parsing, read_json, read_optional_json, write_json
from training.model_directory.tokenizer import read_sentencepiece
from training.model_directory.tokenizer_files import TOKENIZER_CONFIG, own_template, read_roles

CONFIGS = ("config.json", "generation_config.json")


@dataclass(frozen=True)
class Tokens:
    """A tokenizer's tokens with their ids, which of them are control tokens, and who has a role."""

    ids: Mapping[str, int]
    control: frozenset[str]
    roles: Mapping[str, str]


def correct_ids(directory: Path, rows: int | None) -> list[str]:
    """Bring the ids of a written model directory in line with its tokenizer; return notes.

    Training ends answers with the tokenizer's EOS, so decoding must stop there: it joins the ids
    that the configs stop at. Their BOS becomes the tokenizer's; ids outside of the `rows` of the
    embeddings go. The first conversions of LLaMA, such as decapoda-research's, have all of them
    wrong.
    """
    tokens = read_tokens(directory)
    ids = {role: tokens.ids[token] for role, token in tokens.roles.items() if token in tokens.ids}
    notes = []
    for name in CONFIGS:
        before = read_optional_json(directory / name)
        with parsing(directory / name, "a configuration with ids of tokens"):
            after = _corrected(before, ids, rows)
        if after != before:
            write_json(directory / name, after)
            changed = sorted(key for key in before if after.get(key) != before[key])
            notes.append(f"{', '.join(changed)} in {name} did not fit the tokenizer: corrected")
    return notes


def _corrected(config: dict[str, Any], ids: dict[str, int], rows: int | None) -> dict[str, Any]:
    limit = sys.maxsize if rows is None else rows
    changed = {**config, **dict.fromkeys(_outside(config, limit))}
    if "bos_token" in ids and isinstance(config.get("bos_token_id"), int):
        changed["bos_token_id"] = ids["bos_token"]
    if "eos_token" in ids and config.get("eos_token_id") is not None:
        changed["eos_token_id"] = _ends(config["eos_token_id"], ids, limit)
    return changed


def _outside(config: JsonObject, limit: int) -> list[str]:
    """The roles whose ids have no row."""
    ids = {key: config.get(key) for key in ("bos_token_id", "pad_token_id")}
    return [key for key, i in ids.items() if isinstance(i, int) and not 0 <= i < limit]


def _ends(ends: int | list[int], ids: dict[str, int], limit: int) -> int | list[int]:
    """Where decoding stops: as before if the tokenizer's EOS is there, else at it as well."""
    listed, eos = ends if isinstance(ends, list) else [ends], ids["eos_token"]
    if eos in listed:
        return ends
    others = [end for end in listed if 0 <= end < limit and end != ids.get("bos_token")]
    return [eos, *others] if others else eos


def check_vocabulary(source: Path, tokens: Tokens, rows: int | None) -> None:
    """Raise TrainingError when the tokenizer in `source` has ids beyond the embeddings' `rows`."""
    if rows is not None and (needed := count_rows(tokens, own_template(source) or "")) > rows:
        raise TrainingError(
            f"the tokenizer in {source} needs {needed} embedding rows, the model has {rows}: add"
            " the adapter that holds the grown embeddings, or use the tokenizer that belongs to"
            " the model (tokens that were added to it, such as [PAD], have no rows until the"
            " embeddings are resized)"
        )


def count_rows(tokens: Tokens, template: str) -> int:
    """Return how many embedding rows a tokenizer with that chat template needs; 0 without tokens.

    Control tokens that have no role and are not in the chat template do not count: no text leads
    to them. Gemma 3's tokenizer has one for images, whose row its text-only models lack.
    """
    met = {token for token in tokens.control if token in template} | {*tokens.roles.values()}
    unmet = tokens.control - met
    return max((tokens.ids[token] for token in tokens.ids.keys() - unmet), default=-1) + 1


def roles_by_id(config: JsonObject, tokens: Tokens) -> dict[str, str]:
    """Return BOS and EOS where the tokenizer names none and `config` has control tokens' ids.

    GPT-2's tokenizer leaves them to its class. Words are not taken: with a role they would be cut
    out of every text, and a class's default id may be any word's.
    """
    named = {tokens.ids[token]: token for token in tokens.control}
    ids = {role: config.get(f"{role}_id") for role in ("bos_token", "eos_token")}
    found = {role: named.get(number) for role, number in ids.items() if isinstance(number, int)}
    return {role: token for role, token in found.items() if token and role not in tokens.roles}


def read_tokens(directory: Path) -> Tokens:
    """Read tokenizer.json, or else tokenizer.model, in `directory`; none when neither is there.

    Raises TrainingError for files that are no tokenizer.
    """
    settings = read_optional_json(directory / TOKENIZER_CONFIG)
    with parsing(directory, "a directory whose tokenizer files fit together"):
        roles = dict(read_roles(directory, settings))
        if (directory / "tokenizer.json").exists():
            ids, control = _in_json(directory / "tokenizer.json")
            for token in roles.values():  # one that is not there is added, as loaders do
                ids.setdefault(token, max(ids.values(), default=-1) + 1)
            return Tokens(ids, control, roles)
        return Tokens(_in_pieces(directory), frozenset(), roles)


def _in_json(path: Path) -> tuple[dict[str, int], frozenset[str]]:
    """The ids by token, those of a list of pieces by their place; and the control tokens."""
    with parsing(path, "a tokenizer of the tokenizers library"):
        tokenizer = read_json(path)
        vocabulary = tokenizer.get("model", {}).get("vocab", {})
        if not isinstance(vocabulary, dict):
            vocabulary = {piece: number for number, (piece, _) in enumerate(vocabulary)}
        added = tokenizer.get("added_tokens", [])
        ids = vocabulary | {token["content"]: token["id"] for token in added}
        control = frozenset(token["content"] for token in added if token.get("special"))
        return {token: int(number) for token, number in ids.items()}, control


def _in_pieces(directory: Path) -> dict[str, int]:
    if not (directory / "tokenizer.model").exists():
        return {}
    pieces = read_sentencepiece(directory / "tokenizer.model").pieces
    added = read_optional_json(directory / "added_tokens.json")
    ids = {piece.piece: number for number, piece in enumerate(pieces)}
    return ids | {token: int(number) for token, number in added.items()}
