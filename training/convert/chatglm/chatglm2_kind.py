"""ChatGLM2 or ChatGLM3: one architecture and model_type, distinguished by what lies around."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from training.errors import TrainingError
from training.files import JsonObject
from training.model_directory.hub import public_name

# Their config.json has these, ChatGLM-6B's has not.
KEYS = frozenset({"multi_query_attention", "rmsnorm", "padded_vocab_size"})
FIRST = ("[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>")
ROLE_TOKENS = ("<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")
ENDS = ("<|user|>", "<|observation|>")


@dataclass(frozen=True)
class Kind:
    """One generation."""

    name: str
    hub: str
    template: str
    """In training/templates."""
    special: tuple[str, ...]
    """Tokens after the pieces of tokenizer.model, in the order of their ids."""
    ends: tuple[str, ...]
    """Those that end an answer, beside `</s>`."""


CHATGLM2 = Kind("ChatGLM2", "THUDM/chatglm2-6b", "chatglm2", FIRST, ())
CHATGLM3 = Kind("ChatGLM3", "THUDM/chatglm3-6b", "chatglm3", (*FIRST, *ROLE_TOKENS), ENDS)
BY_TEMPLATE: Mapping[str | None, Kind] = {kind.template: kind for kind in (CHATGLM2, CHATGLM3)}


def is_chatglm2(config: JsonObject) -> bool:
    """Tell whether config.json is that of ChatGLM2 or 3, not of ChatGLM-6B."""
    return bool(config.keys() & KEYS)


def detect_kind(source: Path, config: JsonObject, template: str | None) -> Kind:
    """Return which of the two lies in `source`; `template` decides where nothing else does.

    config.json and tokenizer.model look the same. The tokenizer's files name ChatGLM3's roles, or
    do not: its Python file is read as text and never run. Then names count.
    Raises TrainingError when nothing decides, or the template is ChatGLM3's and this is ChatGLM2.
    """
    kind = _by_tokenizer(source) or _by_name(source, config) or BY_TEMPLATE.get(template)
    if kind is None:
        raise TrainingError(
            f"{source}: ChatGLM2 or ChatGLM3? tokenization_chatglm.py decides it: get that too"
            " (it is read, not run), or add --template chatglm2 or --template chatglm3"
        )
    if kind is CHATGLM2 and template == CHATGLM3.template:
        raise TrainingError(
            f"{source} is ChatGLM2, which has no tokens for roles: use --template chatglm2"
        )
    return kind


def _by_tokenizer(source: Path) -> Kind | None:
    code, config = source / "tokenization_chatglm.py", source / "tokenizer_config.json"
    files = filter(Path.exists, (code, config))
    if any(ROLE_TOKENS[1] in path.read_text(encoding="utf-8", errors="replace") for path in files):
        return CHATGLM3
    return CHATGLM2 if code.exists() else None


def _by_name(source: Path, config: JsonObject) -> Kind | None:
    for name in (str(config.get("_name_or_path", "")), public_name(source)):
        for kind in (CHATGLM2, CHATGLM3):
            if kind.name.lower() in name.lower():
                return kind
    return None
