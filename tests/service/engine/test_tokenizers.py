"""The text that token ids add to any prompt."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from vllm.tokenizers.detokenizer_utils import convert_ids_list_to_tokens

from service.engine.outputs import TokenTexts
from service.engine.tokenizers import continuation


class ByteLevel:
    """A tokenizer of bytes alone, which can say everything, UTF-8 or not."""

    backend_tokenizer = Tokenizer(
        models.BPE(
            {token: i for i, token in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, []
        )
    )
    backend_tokenizer.decoder = decoders.ByteLevel()
    backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)

    def ids(self, text: str) -> list[int]:
        return list(self.backend_tokenizer.encode(text).ids)


BYTES = ByteLevel()
TEXT = st.text(st.characters(codec="utf-8"), max_size=8)


def added(prompt: list[int], ids: list[int]) -> str:
    return "".join(continuation(BYTES, prompt, ids, skip_special_tokens=True))


@settings(deadline=None)
@given(prompt=TEXT, text=TEXT)
def test_whole_texts_are_continued_by_whole_texts(prompt: str, text: str) -> None:
    if text.endswith("\ufffd"):
        return  # held back: it may be the beginning of a character
    assert added(BYTES.ids(prompt), BYTES.ids(text)) == text


@settings(deadline=None)
@given(
    prompt=TEXT.filter(bool), cut=st.integers(1, 3), text=st.text("abc。", min_size=1, max_size=4)
)
def test_a_prompt_that_ends_inside_a_character_is_not_repeated(
    prompt: str, cut: int, text: str
) -> None:
    told = added(BYTES.ids(prompt + "龘")[:-cut], BYTES.ids(text))
    assert told.lstrip("\ufffd") == text


@pytest.mark.parametrize("prompt", ["a\ufffd", "\ufffd", "机密\ufffd\ufffd"])
def test_a_prompt_that_ends_in_a_replacement_character_is_not_repeated(prompt: str) -> None:
    assert added(BYTES.ids(prompt), BYTES.ids("好")) == "好"


@settings(deadline=None)
@given(ids=st.lists(st.integers(0, 255), max_size=12), prompt=TEXT)
def test_any_bytes_are_decoded_without_an_error(ids: list[int], prompt: str) -> None:
    pieces = continuation(BYTES, BYTES.ids(prompt), ids, skip_special_tokens=True)
    assert len(pieces) == len(ids)


def test_each_token_gets_what_it_completes(tokenizer: Any) -> None:
    ids = tokenizer.encode("感冒发烧", add_special_tokens=False)
    pieces = continuation(tokenizer, [], ids, skip_special_tokens=True)
    assert "".join(pieces) == "感冒发烧"


def test_texts_of_single_tokens_are_vllms_and_each_is_found_once(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [*range(300), *range(200, 0, -1), 7, 7]
    texts = TokenTexts()
    for some in ([], ids[:40], ids, ids[::-1]):
        assert texts(tokenizer, some) == convert_ids_list_to_tokens(tokenizer, some)
    monkeypatch.setattr(type(tokenizer), "decode", lambda *_, **__: pytest.fail("found again"))
    assert len(texts(tokenizer, ids)) == len(ids)
