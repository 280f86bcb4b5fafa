"""The tokens that a model acts on, and that text of users must therefore not hold."""

import re
from dataclasses import dataclass
from typing import Any, Self

MARKUP = re.compile(r"<.+>|\[.+\]|[｜|].+[｜|]", re.DOTALL)
HTML = re.compile(
    "a|b|blockquote|body|br|caption|code|div|em|h[1-6r]|head|header|footer|html|i|img|li|ol|p|pre|"
    "s|span|strike|strong|sub|sup|table|tbody|td|tfoot|th|thead|tr|u|ul"
)


@dataclass(frozen=True)
class ControlTokens:
    """Texts that the tokenizer turns into one token each, wherever they stand."""

    special: tuple[str, ...]
    """Those that end, begin or divide messages."""
    thought: tuple[str, ...]
    """Marks that the model writes itself, such as <think> and <tool_call>."""
    normalizer: Any = None
    """Set where such a token is also found in text that only becomes it by normalizing."""

    @classmethod
    def of(cls, tokenizer: Any) -> Self:
        """All that were added to the vocabulary, but for what is mere text: white space, words."""
        added = tokenizer.added_tokens_decoder.values()
        special = [token for token in added if token.special]
        thought = [token for token in added if not token.special and _is_markup(token.content)]
        names = [*tokenizer.all_special_tokens, *map(_content, special)]
        return cls(
            tuple(dict.fromkeys(filter(str.strip, names))),
            tuple(map(_content, thought)),
            _normalizer(tokenizer, [*special, *thought]),
        )

    def first_in(self, text: str, *, by_model: bool = False) -> str | None:
        """The first of them that `text` holds; None when there is none.

        `by_model`: it is a message of the model, which may hold its own marks.
        """
        tokens = self.special if by_model else self.special + self.thought
        if self.normalizer is not None:
            text = f"{text}\n{self.normalizer.normalize_str(text)}"
        return next((token for token in tokens if token in text), None)


def _content(token: Any) -> str:
    return str(token.content)


def _normalizer(tokenizer: Any, tokens: list[Any]) -> Any:
    """The tokenizer's, where it is applied to text before these tokens are looked for in it."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return backend.normalizer if backend and any(token.normalized for token in tokens) else None


def _is_markup(token: str) -> bool:
    is_html = token.startswith("<") and HTML.fullmatch(token.strip("</>").lower())
    return bool(MARKUP.fullmatch(token)) and not is_html
