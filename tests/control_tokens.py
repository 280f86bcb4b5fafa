"""Tokenizers of several styles, and texts made of pieces of their control tokens."""

from functools import cache
from typing import Any

from hypothesis import strategies as st

from tests.families import family_tokenizer

MARKS = ["<tool_call>", "</tool_call>", "<think>", "</think>"]
TEXT = ["\n\n\n", "<h1>", "感冒"]
"""Added tokens that are no commands: runs of white space, HTML, words."""
STYLES = ["llama3", "qwen3", "glm4", "gemma3", "deepseek-distill-qwen", "mistral"]


@cache
def styled(name: str, *, normalized: bool = False) -> Any:
    """A tokenizer of the family, with marks that are not special and added text."""
    from tokenizers import AddedToken, normalizers

    tokenizer = family_tokenizer(name)
    if normalized:
        tokenizer.backend_tokenizer.normalizer = normalizers.NFKC()
    added = [AddedToken(mark, special=False, normalized=normalized) for mark in (*MARKS, *TEXT)]
    tokenizer.add_tokens(added)
    return tokenizer


def control(tokenizer: Any) -> list[str]:
    added = tokenizer.added_tokens_decoder.values()
    return [str(token.content) for token in added if str(token.content) not in TEXT]


PIECES = ["<", ">", "|", "<|", "|>", "｜", "[", "]", "/", "im_", "eot_id", "start", "_", " ", "\n"]


def texts(tokenizer: Any) -> st.SearchStrategy[str]:
    """Texts of whole control tokens, of some with a letter missing, and of what is like them."""
    whole = st.sampled_from(control(tokenizer))
    cut = st.builds(lambda token, at: token[:at] + token[at + 1 :], whole, st.integers(0, 20))
    piece = st.one_of(cut, st.sampled_from(PIECES), whole, st.sampled_from(["感冒", "a"]))
    return st.lists(piece, min_size=1, max_size=6).map(lambda pieces: "".join(pieces) + "。")


def acting(tokenizer: Any, *, but: list[str]) -> set[int]:
    """Ids of the control tokens, but for some."""
    tokens = {*control(tokenizer)} - {*but}
    return {i for i, token in tokenizer.added_tokens_decoder.items() if str(token) in tokens}
