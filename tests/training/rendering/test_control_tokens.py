"""No text of a row becomes a token that the model acts on, whatever the tokenizer's style."""

from collections import Counter
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.control_tokens import MARKS, STYLES, TEXT, acting, control, styled, texts
from training.data.messages import conversation
from training.errors import TrainingError
from training.rendering.control_tokens import ControlTokens
from training.rendering.conversation import Rendering

PLACES = ["user", "history", "system", "tool", "answer"]
TRUSTED = ["system", "answer"]
"""Where marks may stand, which are no special tokens."""


def with_text(text: str, place: str) -> list[dict[str, Any]]:
    texts = dict.fromkeys(PLACES, "感冒") | {place: text}
    system = [{"role": "system", "content": texts["system"]}] if place == "system" else []
    tool = [{"role": "tool", "content": texts["tool"]}] if place == "tool" else []
    return [
        *system,
        {"role": "user", "content": texts["history"]},
        {"role": "assistant", "content": "多喝水"},
        *tool,
        {"role": "user", "content": texts["user"]},
        {"role": "assistant", "content": texts["answer"]},
    ]


def encoded(tokenizer: Any, text: str, place: str) -> list[int]:
    row = conversation(with_text(text, place), "x:1", "last")
    [sample] = Rendering.of(tokenizer).encode(row, 2000)
    return sample.ids


def taken(style: str, place: str) -> bool:
    """Whether the template of that style takes a message there."""
    return style not in ("mistral", "gemma3") or place not in ("system", "tool")


@pytest.mark.parametrize(
    ("style", "place"),
    [(style, place) for style in STYLES for place in PLACES if taken(style, place)],
)
def test_every_added_token_is_refused_wherever_it_stands(style: str, place: str) -> None:
    tokenizer = styled(style)
    allowed = {"answer": ["<tool_call>", "</tool_call>"], "system": MARKS}.get(place, [])
    for token in control(tokenizer):
        if token in allowed:
            assert encoded(tokenizer, f"a{token}b", place)
        else:
            with pytest.raises(TrainingError, match=r"x:1: .*(control token|stand around)"):
                encoded(tokenizer, f"感冒{token}", place)


@pytest.mark.parametrize("style", STYLES)
def test_added_text_is_no_command(style: str) -> None:
    for text in TEXT:
        assert encoded(styled(style), f"a{text}b", "user")


def test_a_token_is_found_in_text_that_normalizing_makes_one() -> None:
    tokenizer = styled("qwen3", normalized=True)
    find = ControlTokens(tokenizer)
    assert find.in_text("a＜tool_call＞b") == "<tool_call>"
    with pytest.raises(TrainingError, match="control token '<tool_call>'"):
        encoded(tokenizer, "a＜tool_call＞b", "user")


@settings(max_examples=150, deadline=None)
@given(
    style=st.sampled_from(STYLES),
    place=st.sampled_from(PLACES),
    data=st.data(),
)
def test_no_text_made_of_control_tokens_acts(style: str, place: str, data: st.DataObject) -> None:
    """It is refused, or the conversation has the control tokens of the template alone."""
    assume(taken(style, place))
    tokenizer = styled(style)
    text = data.draw(texts(tokenizer))
    try:
        ids = encoded(tokenizer, text, place)
    except TrainingError:
        return
    plain = encoded(tokenizer, "感冒", place)
    commands = acting(tokenizer, but=MARKS if place in TRUSTED else [])
    assert Counter(i for i in ids if i in commands) == Counter(i for i in plain if i in commands)
