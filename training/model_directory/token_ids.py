"""Which ids config.json and generation_config.json call BOS, EOS and padding, by the tokenizer."""

import sys
from pathlib import Path
from typing import Any

from training.files import parsing, read_json, read_optional_json, write_json
from training.model_directory.tokenizer_files import TOKENIZER_CONFIG, read_roles

CONFIGS = ("config.json", "generation_config.json")


def correct_ids(directory: Path, rows: int | None) -> list[str]:
    """Bring the ids of a written model directory in line with its tokenizer; return notes.

    Training ends answers with the tokenizer's EOS, so decoding must stop there: it joins the ids
    that the configs stop at. Their BOS becomes the tokenizer's; ids outside of the `rows` of the
    embeddings go. The first conversions of LLaMA, such as decapoda-research's, have all of them
    wrong.
    """
    tokens = _token_ids(directory)
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
    changed = dict(config)
    for key in ("bos_token_id", "pad_token_id"):
        if config.get(key) is not None and not 0 <= config[key] < limit:
            changed[key] = None
    if "bos_token" in tokens and config.get("bos_token_id") is not None:
        changed["bos_token_id"] = tokens["bos_token"]
    if "eos_token" in tokens and config.get("eos_token_id") is not None:
        changed["eos_token_id"] = _ends(config["eos_token_id"], tokens, limit)
    return changed


def _ends(ends: int | list[int], tokens: dict[str, int], limit: int) -> int | list[int]:
    """Where decoding stops: as before if the tokenizer's EOS is there, else at it as well."""
    listed, eos = ends if isinstance(ends, list) else [ends], tokens["eos_token"]
    if eos in listed:
        return ends
    others = [end for end in listed if 0 <= end < limit and end != tokens.get("bos_token")]
    return [eos, *others] if others else eos


def _token_ids(directory: Path) -> dict[str, int]:
    """The id of each special token by its role, as far as tokenizer.json knows it."""
    if not (directory / "tokenizer.json").exists():
        return {}
    with parsing(directory / "tokenizer.json", "a tokenizer of the tokenizers library"):
        tokenizer = read_json(directory / "tokenizer.json")
        vocabulary = tokenizer.get("model", {}).get("vocab", {})
        ids = dict(vocabulary) if isinstance(vocabulary, dict) else {}
        ids |= {token["content"]: token["id"] for token in tokenizer.get("added_tokens", [])}
    with parsing(directory / TOKENIZER_CONFIG, "the settings of a tokenizer"):
        roles = read_roles(directory, read_optional_json(directory / TOKENIZER_CONFIG))
        return {role: ids[token] for role, token in roles if token in ids}
