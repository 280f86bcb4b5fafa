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
        special, thought = list(tokenizer.all_special_tokens), []
        normalized = False
        for token in tokenizer.added_tokens_decoder.values():
            if token.special:
                special.append(token.content)
            elif _is_markup(token.content):
                thought.append(token.content)
            else:
                continue
            normalized |= token.normalized
        backend = getattr(tokenizer, "backend_tokenizer", None)
        return cls(
            tuple(dict.fromkeys(filter(str.strip, special))),
            tuple(dict.fromkeys(thought)),
            backend.normalizer if normalized and backend is not None else None,
        )

    def first_in(self, text: str, *, by_model: bool = False) -> str | None:
        """The first of them that `text` holds; None when there is none.

        `by_model`: it is a message of the model, which may hold its own marks.
        """
        tokens = self.special if by_model else self.special + self.thought
        if self.normalizer is not None:
            text = f"{text}\n{self.normalizer.normalize_str(text)}"
        return next((token for token in tokens if token in text), None)


def _is_markup(token: str) -> bool:
    is_html = token.startswith("<") and HTML.fullmatch(token.strip("</>").lower())
    return bool(MARKUP.fullmatch(token)) and not is_html
