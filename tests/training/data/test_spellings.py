"""Chat data as other programs write it: nulls under other names, old calls, odd shapes."""

import json
from pathlib import Path
from typing import Any

import pytest

from training.data import Layout, Row, load_rows
from training.errors import TrainingError

USER = {"role": "user", "content": "q"}
F = {"name": "f", "arguments": {"x": 1}}
TOOL = {"name": "f", "parameters": {"type": "object"}}
WRAPPED = {"type": "function", "function": TOOL}


def read(tmp_path: Path, fields: dict[str, Any], **layout: Any) -> Row:
    path = tmp_path / "train.json"
    path.write_text(json.dumps(fields))
    [row] = load_rows(path, Layout(**layout))
    return row


def answered(tmp_path: Path, **answer: Any) -> Row:
    messages = [USER, {"role": "assistant", "content": "a", **answer}]
    return read(tmp_path, {"messages": messages})


@pytest.mark.parametrize(
    ("said", "thought"),
    [
        ({"reasoning_content": None, "reasoning": "t"}, "t"),
        ({"reasoning_content": "", "thinking": "t"}, "t"),
        ({"reasoning": None, "thinking": "t"}, "t"),
        ({"reasoning": None}, None),
        ({"tool_calls": []}, None),
        ({"tool_calls": None, "name": None}, None),
        ({"weight": 1, "train": True, "loss": None}, None),
    ],
    ids=str,
)
def test_what_is_null_or_empty_is_not_there(
    said: dict[str, Any], thought: str | None, tmp_path: Path
) -> None:
    answer = answered(tmp_path, **said).messages[-1]
    expected = {"role": "assistant", "content": "a"}
    assert answer == expected | ({"reasoning_content": thought} if thought else {})


@pytest.mark.parametrize(
    "flags", [{"weight": 0}, {"weight": 1, "train": False}, {"loss": False, "weight": 1}], ids=str
)
def test_an_answer_is_left_out_where_any_name_says_so(
    flags: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(TrainingError, match="no answer in it is to be learned"):
        answered(tmp_path, **flags)


@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        (F, {"x": 1}),
        ({"name": "f", "arguments": '{"x": 1}'}, {"x": 1}),
        ({"name": "f", "arguments": "{}"}, {}),
        ({"name": "f", "arguments": {}}, {}),
        ({"name": "f", "arguments": ""}, {}),
        ({"name": "f", "arguments": None}, {}),
        ({"name": "f"}, {}),
    ],
    ids=str,
)
@pytest.mark.parametrize("spelling", ["tool_calls", "function_call", "sharegpt"])
def test_a_call_is_the_same_however_it_is_spelled(
    spelling: str, call: dict[str, Any], arguments: dict[str, Any], tmp_path: Path
) -> None:
    if spelling == "sharegpt":
        turns = [
            {"from": "human", "value": "q"},
            {"from": "function_call", "value": json.dumps(call)},
        ]
        row = read(tmp_path, {"conversations": turns})
    else:
        calls = [{"type": "function", "function": call}] if spelling == "tool_calls" else call
        row = answered(tmp_path, content=None, **{spelling: calls})
    [made] = row.messages[-1]["tool_calls"]
    assert made == {"type": "function", "function": {"name": "f", "arguments": arguments}}


@pytest.mark.parametrize("column", ["tools", "functions"])
@pytest.mark.parametrize(
    "tools", [[TOOL], [{"type": "function", "function": TOOL}], json.dumps([TOOL])]
)
def test_tools_are_wrapped_as_in_requests(column: str, tools: Any, tmp_path: Path) -> None:
    row = read(tmp_path, {"messages": [USER, {"role": "assistant", "content": "a"}], column: tools})
    assert [*row.tools] == [WRAPPED]


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [{"name": "f", "description": "\ud800"}]},
        {"tools": [{"name": "f", "\ud800": 1}]},
        {"said": {"tool_calls": [{"function": {"name": "f", "arguments": {"x": "\ud800"}}}]}},
        {"said": {"tool_calls": [{"function": {"name": "f", "arguments": {"\ud800": 1}}}]}},
        {"said": {"name": "\ud800"}},
        {"said": {"reasoning": "\ud800"}},
    ],
    ids=str,
)
def test_half_a_character_is_told_wherever_it_is(fields: dict[str, Any], tmp_path: Path) -> None:
    said = fields.pop("said", {})
    messages = [USER, {"role": "assistant", "content": "a", **said}]
    with pytest.raises(TrainingError, match=r"train\.json:1: .*half of a character"):
        read(tmp_path, {"messages": messages, **fields})


def test_a_greeting_before_the_first_question_is_not_learned(tmp_path: Path) -> None:
    greeting, answer = ({"role": "assistant", "content": text} for text in ("hi", "a"))
    row = read(tmp_path, {"messages": [greeting, USER, answer]}, learn="all")
    assert row.learned == (2,)
    with pytest.raises(TrainingError, match="the last message must be"):
        read(tmp_path, {"messages": [greeting, USER]}, learn="all")


@pytest.mark.parametrize("content", ["", None, "old"])
def test_the_answer_of_a_test_set_is_not_looked_at(content: Any, tmp_path: Path) -> None:
    fields = {"messages": [USER, {"role": "assistant", "content": content}]}
    assert read(tmp_path, fields, answered=False).messages[:-1] == (USER,)
