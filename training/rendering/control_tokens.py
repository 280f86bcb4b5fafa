"""Tokens that a model acts on, found in texts that are mere data."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from transformers import PreTrainedTokenizerBase as Tokenizer

from training.rendering.tokenizer import encode

MARKUP = re.compile(r"<.+>|\[.+\]|[｜|].+[｜|]", re.DOTALL)
HTML = re.compile(
    "a|b|blockquote|body|br|caption|code|div|em|h[1-6r]|head|header|footer|html|i|img|li|ol|p|pre|"
    "s|span|strike|strong|sub|sup|table|tbody|td|tfoot|th|thead|tr|u|ul"
)
TRUSTED = ("assistant", "system")
"""Roles of whom marks are taken; the service takes them of the same ones."""


@dataclass(frozen=True)
class ControlTokens:
    """Those of a tokenizer: every added token that is no white space, word or HTML."""

    tokenizer: Tokenizer

    def in_text(self, text: str) -> str | None:
        """The first one that `text` becomes when it is encoded; None: it is text alone."""
        return self._first(text, self._all)

    def in_trusted(self, text: str) -> str | None:
        """As `in_text`; the model and developers may write marks of the model, as <tool_call>."""
        return self._first(text, self._special)

    def _first(self, text: str, tokens: dict[int, str]) -> str | None:
        return next((tokens[i] for i in encode(self.tokenizer, text) if i in tokens), None)

    @cached_property
    def _all(self) -> dict[int, str]:
        added = self.tokenizer.added_tokens_decoder.items()
        marks = {i: str(token.content) for i, token in added if _is_markup(str(token.content))}
        return self._special | marks

    @cached_property
    def _special(self) -> dict[int, str]:
        added = self.tokenizer.added_tokens_decoder.items()
        special = {i: str(token.content) for i, token in added if token.special}
        roles = zip(self.tokenizer.all_special_ids, self.tokenizer.all_special_tokens, strict=True)
        return {i: token for i, token in (special | dict(roles)).items() if token.strip()}


def _is_markup(token: str) -> bool:
    is_html = token.startswith("<") and HTML.fullmatch(token.strip("</>").lower())
    return bool(MARKUP.fullmatch(token)) and not is_html


def joined(texts: Iterable[str]) -> str:
    """Texts in one, to be encoded at once: no token reaches over the line break between two."""
    return "\n".join(texts)
