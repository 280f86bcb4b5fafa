"""A thought that was cut off is no answer, whatever cut it off."""

import json
from typing import Any

import pytest

from client.prediction.events import EventReader, Item


def item(**event: Any) -> Item:
    usage = {"prompt_tokens": 1, "completion_tokens": 5, "total_tokens": 6}
    whole = {"index": 0, "generated_text": "", "finish_reason": "stop", "usage": usage, **event}
    whole["usage"] = usage | whole["usage"]
    [read] = EventReader().feed(f"data: {json.dumps(whole)}\n".encode())
    return read


@pytest.mark.parametrize("reason", ["length", "stop"])
def test_a_thought_without_its_end_is_refused(reason: str) -> None:
    thought = {"reasoning": "想", "usage": {"reasoning_tokens": 5}}
    refusal = item(finish_reason=reason, **thought).refusal
    assert refusal is not None
    assert f"cut off at 5 tokens (finish_reason {reason})" in refusal


@pytest.mark.parametrize(
    "event",
    [
        {"generated_text": "好", "reasoning": "想", "usage": {"reasoning_tokens": 3}},
        {"reasoning": "想", "usage": {"reasoning_tokens": 4}},  # an empty answer behind it
        {},
        {"finish_reason": "length", "generated_text": "好"},
    ],
)
def test_what_has_an_answer_is_taken(event: dict[str, Any]) -> None:
    assert item(**event).refusal is None
