"""A written model directory's tokenizer: tokenizer.json and a template, whatever there was."""

from collections.abc import Iterator
from operator import itemgetter
from pathlib import Path
from typing import Any

from tokenizers import AddedToken

from training.errors import TrainingError
from training.files import JsonObject, read_optional_json, read_text, write_json
from training.model_directory.tokenizer import tokenizer_from_sentencepiece

TEMPLATE = "chat_template.jinja"
TOKENIZER_CONFIG = "tokenizer_config.json"
TOKEN_ROLES = ("bos_token", "eos_token", "unk_token", "pad_token")
# What tokenizer.json and the new tokenizer_config.json say takes their place.
OLD = ("tokenizer.model", "special_tokens_map.json", "added_tokens.json")
UNLIMITED = 10**9  # transformers writes 1e30 for a context that it does not know


def finish_tokenizer(directory: Path, chat: str | None, context: int | None) -> list[str]:
    """Make tokenizer.json from tokenizer.model if need be, set the chat template; return notes.

    `directory` holds copies of a checkpoint's tokenizer files. `chat` is a template's text, None
    keeps the checkpoint's own; `context` the model's longest sequence in tokens, None unknown.
    Raises TrainingError when tokenizer.model is not LLaMA's kind, or added tokens lack their place.
    """
    notes = []
    if not (directory / "tokenizer.json").exists() and (directory / "tokenizer.model").exists():
        _make_json(directory, context)
        notes.append("tokenizer.json was made from tokenizer.model")
    return notes + _set_template(directory, chat)


def _set_template(directory: Path, chat: str | None) -> list[str]:
    """Put `chat` in the place of any template; return notes when none is there."""
    config = read_optional_json(directory / TOKENIZER_CONFIG)
    if chat is not None:
        (directory / TEMPLATE).write_text(chat, encoding="utf-8")
        if config.pop("chat_template", None):
            write_json(directory / TOKENIZER_CONFIG, config)
    elif not (directory / TEMPLATE).exists() and not config.get("chat_template"):
        return [
            "no chat template is there, so prompts are served as they are, and training needs"
            " template=NAME"
        ]
    return []


def _make_json(directory: Path, context: int | None) -> None:
    config = read_optional_json(directory / TOKENIZER_CONFIG)
    length = min(int(config.get("model_max_length") or UNLIMITED), context or UNLIMITED)
    tokenizer = tokenizer_from_sentencepiece(directory / "tokenizer.model", length)
    _add_tokens(tokenizer, directory, config)
    for role, token in read_roles(directory, config):
        if token not in tokenizer.get_vocab():
            raise TrainingError(
                f"{role} is {token!r}, which tokenizer.model lacks and added_tokens.json does not"
                f" add: correct it in {TOKENIZER_CONFIG} (or special_tokens_map.json) of the input"
            )
        setattr(tokenizer, role, token)
    tokenizer.chat_template = own_template(directory)
    for name in (*OLD, TOKENIZER_CONFIG):
        (directory / name).unlink(missing_ok=True)
    tokenizer.save_pretrained(directory)


def own_template(directory: Path) -> str | None:
    """The template in its file, else in tokenizer_config.json, of several the one named default.

    Raises TrainingError when it is none of these.
    """
    if (directory / TEMPLATE).exists():
        return read_text(directory / TEMPLATE)
    own = read_optional_json(directory / TOKENIZER_CONFIG).get("chat_template")
    try:
        if isinstance(own, list):
            own = {entry["name"]: entry["template"] for entry in own}.get("default")
        if own is None or isinstance(own, str):
            return own
    except (KeyError, TypeError):
        pass
    raise TrainingError(
        f"{directory / TOKENIZER_CONFIG}: chat_template must be a text, or a list of objects with"
        " name and template"
    )


def _add_tokens(tokenizer: Any, directory: Path, config: JsonObject) -> None:
    """Add what the checkpoint added to sentencepiece's pieces, each at its own id."""
    decoder = config.get("added_tokens_decoder", {})
    ids = {entry["content"]: int(number) for number, entry in decoder.items()}
    ids |= read_optional_json(directory / "added_tokens.json")
    special = _special_tokens(directory, config)
    for token, number in sorted(ids.items(), key=itemgetter(1)):
        if tokenizer.get_vocab().get(token) == number:
            continue
        if number != len(tokenizer):
            raise TrainingError(
                f"the added token {token!r} has id {number}, but {len(tokenizer)} is the next one"
                " free: do tokenizer.model and added_tokens.json belong together?"
            )
        tokenizer.add_tokens([AddedToken(token, normalized=False, special=token in special)])


def _special_tokens(directory: Path, config: JsonObject) -> set[str]:
    added = config.get("added_tokens_decoder", {}).values()
    roles = {token for _, token in read_roles(directory, config)}
    return roles | {entry["content"] for entry in added if entry.get("special")}


def read_roles(directory: Path, config: JsonObject) -> Iterator[tuple[str, str]]:
    """Which token is BOS, EOS and so on, where the checkpoint says so; some leave them empty."""
    settings = {**read_optional_json(directory / "special_tokens_map.json"), **config}
    for role in TOKEN_ROLES:
        token = settings.get(role)
        token = token.get("content") if isinstance(token, dict) else token
        if token and not isinstance(token, str):
            raise TrainingError(f"{directory}: {role} must be a token, not {token!r}")
        if token:
            yield role, token
