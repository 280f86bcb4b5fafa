"""The tokens that a model acts on, and that text of users must therefore not hold."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

MARKUP = re.compile(r"<.+>|\[.+\]|[｜|].+[｜|]", re.DOTALL)
HTML = re.compile(
    "a|b|blockquote|body|br|caption|code|div|em|h[1-6r]|head|header|footer|html|i|img|li|ol|p|pre|"
    "s|span|strike|strong|sub|sup|table|tbody|td|tfoot|th|thead|tr|u|ul"
)
TRUSTED = ("assistant", "system", "developer")
"""Roles whose messages may hold marks such as <tool_call>, though no special tokens."""
END = ""
"""In a trie: a word ends here."""
PIECE = 2**18
"""Characters that are searched at once: Python's threads wait for each other meanwhile."""
SHRINKS = 4
"""By how much a normalizer may shorten a text: Unicode composes three letters at the most."""


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

    def first_in(self, text: str, *, trusted: bool = False) -> str | None:
        """The first of them that `text` holds; None when there is none.

        `trusted`: it is by the model or by a developer, who may write of the model's marks.
        """
        pattern = self._special if trusted else self._all
        if pattern is None:
            return None
        found = filter(None, map(pattern.search, self._pieces(text)))
        return next((each.group() for each in found), None)

    def _pieces(self, text: str) -> Iterator[str]:
        for start in range(0, len(text), PIECE):
            piece = text[start : start + PIECE + self._overlap]
            yield piece
            if self.normalizer is not None:
                yield self.normalizer.normalize_str(piece)

    @cached_property
    def _special(self) -> re.Pattern[str] | None:
        return any_of(self.special)

    @cached_property
    def _all(self) -> re.Pattern[str] | None:
        return any_of(self.special + self.thought)

    @cached_property
    def _overlap(self) -> int:
        """Of two pieces, so that no token falls between them."""
        return SHRINKS * max(map(len, self.special + self.thought), default=0)


def any_of(words: Iterable[str]) -> re.Pattern[str] | None:
    """Finds any of these texts, the longest at a place. None for no words.

    They share their beginnings in it: one pass over a text, where some models have thousands.
    """
    trie: dict[str, Any] = {}
    for word in words:
        node = trie
        for letter in word:
            node = node.setdefault(letter, {})
        node[END] = {}
    return re.compile(_alternatives(trie)) if trie else None


def _alternatives(node: dict[str, Any]) -> str:
    rest = {letter: after for letter, after in node.items() if letter != END}
    each = [re.escape(letter) + _alternatives(after) for letter, after in rest.items()]
    if len(node) == 1:
        return "".join(each)
    return f"(?:{'|'.join(each)}){'?' * (END in node)}"


def _content(token: Any) -> str:
    return str(token.content)


def _normalizer(tokenizer: Any, tokens: list[Any]) -> Any:
    """The tokenizer's, where it is applied to text before these tokens are looked for in it."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return backend.normalizer if backend and any(token.normalized for token in tokens) else None


def _is_markup(token: str) -> bool:
    is_html = token.startswith("<") and HTML.fullmatch(token.strip("</>").lower())
    return bool(MARKUP.fullmatch(token)) and not is_html
