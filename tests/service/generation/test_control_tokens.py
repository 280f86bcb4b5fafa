"""The search for control tokens in users' text."""

import random
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex
from tokenizers.normalizers import NFKC, Replace, Sequence

from service.generation import control_tokens
from service.generation.control_tokens import ControlTokens, any_of

FEW_LETTERS = st.text("<ab|>.", max_size=6)


@given(st.lists(FEW_LETTERS.filter(len), max_size=8), st.text("<ab|>.", max_size=40))
def test_any_of_finds_what_looking_for_each_would_find(words: list[str], text: str) -> None:
    pattern = any_of(words)
    found = pattern.search(text) if pattern else None
    assert bool(found) == any(word in text for word in words)
    if found:
        longest = max((word for word in words if text.startswith(word, found.start())), key=len)
        assert found.group() == longest


@pytest.mark.parametrize("at", range(-12, 3))
def test_a_token_on_the_border_of_two_pieces_is_found(
    at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_tokens, "PIECE", 64)
    tokens = ControlTokens(("<|end|>",), ("<think>",))
    text = "x" * (128 + at) + "<think>" + "y" * 100
    assert tokens.first_in(text) == "<think>"
    assert tokens.first_in(text, trusted=True) is None


def test_a_token_that_the_normalizer_makes_is_found_on_every_border(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(control_tokens, "PIECE", 16)
    normalizer = Sequence([NFKC(), Replace(Regex("~"), "")])
    tokens = ControlTokens(("<s>",), (), normalizer)
    for before in range(40):
        assert tokens.first_in("x" * before + "＜ｓ＞" + "x" * 20) == "<s>"
        assert tokens.first_in("x" * before + "<~s~>" + "x" * 20) == "<s>"


def test_thousands_of_tokens_are_one_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gemma has 6,414 of them; one search for each took a minute."""
    words = [f"<unused{number}>" for number in range(6000)]
    tokens = ControlTokens((), tuple(words))
    text = "<unused" * 50_000
    pattern = any_of(words)
    assert pattern is not None
    search = Mock(side_effect=pattern.search)
    monkeypatch.setattr(control_tokens, "any_of", lambda _: Mock(search=search))
    assert tokens.first_in(text) is None
    assert search.call_count == -(-len(text) // control_tokens.PIECE)
    chosen = random.Random(0).choice(words)
    assert tokens.first_in(text + chosen) == chosen
