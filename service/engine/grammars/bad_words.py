"""Words that must not occur in a text, as a grammar of all other texts.

vLLM's own bad_words forbids one sequence of tokens for each word. The same word in other tokens,
inside a longer token or across two, would pass.
"""

import json
from collections.abc import Iterable

MARK = "// texts without some words\n"
"""Begins such a grammar; no user's may hold it."""
ANY = "/(?s:.*)/"


def without(words: Iterable[str], ends: Iterable[int]) -> str:
    """A grammar, for llguidance, of the texts that hold none of `words`.

    Args:
        words: any texts, not empty.
        ends: token ids that end an answer, beside the tokenizer's own end token.
    """
    each = " | ".join(json.dumps(word, ensure_ascii=False) for word in words)
    last = "".join(f" | TEXT <[{token_id}]>" for token_id in sorted(ends))
    return (
        f"%llguidance {{}}\n{MARK}start: TEXT{last}\n"
        f"TEXT: {ANY} & ~BAD\nBAD: {ANY} ({each}) {ANY}\n"
    )
