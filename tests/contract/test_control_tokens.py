"""A text made of control tokens is refused, or acts nowhere: in data, /generate and /v1 alike."""

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from service.api.v1_requests import read_v1
from service.errors import InvalidRequestError
from service.generation.chat import Chat
from service.generation.prompt import PromptEncoder
from service.request_record import RequestRecord
from tests.control_tokens import MARKS, STYLES, acting, styled, texts
from training.data.messages import Row, conversation
from training.errors import TrainingError
from training.rendering.conversation import Rendering

PLACES = ["user", "history", "system"]


def messages(text: str, place: str) -> list[dict[str, str]]:
    said = dict.fromkeys(PLACES, "感冒") | {place: text}
    system = [{"role": "system", "content": said["system"]}] if place == "system" else []
    history = [
        {"role": "user", "content": said["history"]},
        {"role": "assistant", "content": "多喝水"},
    ]
    return [*system, *history, {"role": "user", "content": said["user"]}]


def in_data(tokenizer: Any, text: str, place: str) -> list[int]:
    row: Row = conversation(
        [*messages(text, place), {"role": "assistant", "content": "好"}], "x:1", "last"
    )
    [sample] = Rendering.of(tokenizer).encode(row, 4000)
    return sample.prompt_ids


def in_generate(tokenizer: Any, text: str, place: str) -> list[int]:
    asked = messages(text, place)
    system = text if place == "system" else None
    chat = Chat(system, history=((asked[-3]["content"], "多喝水"),))
    return PromptEncoder(tokenizer).encode(asked[-1]["content"], chat)


def in_v1(tokenizer: Any, text: str, place: str) -> list[int]:
    """As vLLM renders what we let through."""
    asked = messages(text, place)
    body = json.dumps({"messages": asked}).encode()
    encoder = PromptEncoder(tokenizer)
    record = RequestRecord("id", "POST")
    for rendered, trusted in read_v1("/v1/chat/completions", body, record, 1).rendered:
        encoder.refuse_control_tokens(rendered, trusted=trusted)
    ids: list[int] = tokenizer.apply_chat_template(
        asked, add_generation_prompt=True, return_dict=False
    )
    return ids


WAYS = {"data": in_data, "generate": in_generate, "v1": in_v1}


def ids_of(way: Callable[..., list[int]], *arguments: Any) -> list[int] | None:
    """None: refused."""
    try:
        return way(*arguments)
    except (TrainingError, InvalidRequestError) as error:
        if "control token" not in str(error):
            raise
        return None


def takes_system(style: str) -> bool:
    return style not in ("mistral", "gemma3")


@settings(max_examples=200, deadline=None)
@given(
    style=st.sampled_from(STYLES),
    normalized=st.booleans(),
    place=st.sampled_from(PLACES),
    data=st.data(),
)
def test_no_text_made_of_control_tokens_acts(
    style: str, normalized: bool, place: str, data: st.DataObject
) -> None:
    assume(place != "system" or takes_system(style))
    tokenizer = styled(style, normalized=normalized)
    text = data.draw(texts(tokenizer))
    found = {name: ids_of(way, tokenizer, text, place) for name, way in WAYS.items()}
    assert found["data"] == found["generate"] == found["v1"]
    ids = found["data"]
    if ids is None:
        return
    commands = acting(tokenizer, but=MARKS if place == "system" else [])
    plain = in_data(tokenizer, "感冒", place)
    assert Counter(i for i in ids if i in commands) == Counter(i for i in plain if i in commands)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("style", STYLES)
def test_every_special_token_is_refused_in_every_place(
    style: str, way: Callable[..., list[int]]
) -> None:
    tokenizer = styled(style)
    special = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
    for place in PLACES:
        if place != "system" or takes_system(style):
            for token in special:
                assert ids_of(way, tokenizer, f"感冒{token}咽痛", place) is None
