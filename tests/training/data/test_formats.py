"""Data as people have it: five formats, as JSON lines or as one JSON list, each to one shape."""

import json
from pathlib import Path
from typing import Any

import pytest

from training.data import Layout, Row, load_rows
from training.errors import TrainingError

TURNS = [
    {"role": "system", "content": "你是医生"},
    {"role": "user", "content": "感冒"},
    {"role": "assistant", "content": "多喝水"},
    {"role": "user", "content": "还有呢"},
    {"role": "assistant", "content": "休息"},
]
CALL = {"name": "查", "arguments": {"药": "阿司匹林", "量": None}}
TOOLS = [{"type": "function", "function": {"name": "查", "parameters": {}}}]
ROUND = [["感冒", "多喝水"]]
SAME: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "columns": (
        {"input": "还有呢", "target": "休息", "past": ROUND, "role": "你是医生"},
        {"history": "past", "system": "role"},
    ),
    "messages": ({"messages": TURNS}, {}),
    "messages in parts": (
        {"messages": [{**t, "content": [{"type": "text", "text": t["content"]}]} for t in TURNS]},
        {},
    ),
    "sharegpt": (
        {
            "system": "你是医生",
            "conversations": [
                {"from": "human" if t["role"] == "user" else "gpt", "value": t["content"]}
                for t in TURNS[1:]
            ],
        },
        {},
    ),
    "alpaca": (
        {
            **{"instruction": "还有呢", "input": "", "output": "休息", "history": ROUND},
            "system": "你是医生",
        },
        {},
    ),
    "completion": (
        {"prompt": "还有呢", "completion": "休息", "past": ROUND, "role": "你是医生"},
        {"history": "past", "system": "role"},
    ),
    "completion of messages": ({"prompt": TURNS[:-1], "completion": TURNS[-1:]}, {}),
}


def write(path: Path, *rows: object, as_list: bool = False) -> Path:
    lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    path.write_text(json.dumps(rows, indent=1) if as_list else lines, encoding="utf-8")
    return path


def only(path: Path, **layout: Any) -> Row:
    [row] = load_rows(path, Layout(**layout))
    return row


@pytest.mark.parametrize("as_list", [True, False])
@pytest.mark.parametrize("name", SAME)
def test_every_format_becomes_the_same_conversation(
    name: str, as_list: bool, tmp_path: Path
) -> None:
    fields, layout = SAME[name]
    form = name.split()[0]
    path = write(tmp_path / "train.json", fields, as_list=as_list)
    if form == "columns" and as_list:  # which the client could not read
        with pytest.raises(TrainingError, match=r"train\.json: a JSON list; .* one a line"):
            load_rows(path, Layout(**layout))
        return
    row = only(path, **layout)
    assert [*row.messages] == TURNS
    assert row.learned == (4,)
    assert row.where == (f"{path}[0]" if as_list else f"{path}:1")
    assert only(path, **layout, learn="all").learned == (2, 4)
    assert only(path, **layout, format=form).messages == row.messages


def test_an_instruction_with_an_input_is_both(tmp_path: Path) -> None:
    fields = {"instruction": "分类", "input": "感冒", "output": "病"}
    assert only(write(tmp_path / "a", fields)).messages[0]["content"] == "分类\n感冒"


def test_tool_turns_are_one_in_both_formats(tmp_path: Path) -> None:
    """Arguments become an object, whatever they are written as, as vLLM gives them to templates."""
    call = {
        "id": "1",
        "type": "function",
        "function": {**CALL, "arguments": json.dumps(CALL["arguments"])},
    }
    messages = [
        {"role": "user", "content": "药"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "一片"},
        {"role": "assistant", "content": "一天一片"},
    ]
    turns = [
        {"from": "human", "value": "药"},
        {"from": "function_call", "value": json.dumps(CALL)},
        {"from": "observation", "value": "一片"},
        {"from": "gpt", "value": "一天一片"},
    ]
    first = only(write(tmp_path / "a", {"messages": messages, "tools": TOOLS}))
    second = only(write(tmp_path / "b", {"conversations": turns, "tools": json.dumps(TOOLS)}))
    for row in (first, second):
        assert row.messages[1]["tool_calls"][0]["function"] == CALL
        assert row.messages[1]["content"] == ""
        assert [*row.tools] == TOOLS
        roles = [message["role"] for message in row.messages]
        assert roles == ["user", "assistant", "tool", "assistant"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"messages": []}, "messages: no message of a user"),
        ({"messages": "x"}, "messages: Input should be a valid list"),
        ({"messages": [{"role": "bot", "content": "x"}]}, r"messages\.0\.role"),
        ({"messages": [{"role": "user", "content": 3}]}, r"messages\.0\.content"),
        ({"messages": TURNS[:-1]}, "the last message must be the assistant's"),
        ({"messages": [*TURNS[1:3], TURNS[0], *TURNS[3:]]}, r"messages\.2: a system text stands"),
        ({"messages": [TURNS[1], {"role": "assistant", "content": " "}]}, r"messages\.1: .*empty"),
        ({"messages": [TURNS[1], {**TURNS[2], "weight": 0}]}, "no answer in it is to be learned"),
        ({"messages": [TURNS[1], {**TURNS[2], "content": "a\ud83d"}]}, "half of a character"),
        (
            {
                "messages": [
                    TURNS[1],
                    {**TURNS[2], "content": [{"type": "image_url", "url": 1}]},
                ]
            },
            r"messages\.1\.content",
        ),
        ({"messages": TURNS, "tools": "{"}, "tools: "),
        ({"messages": TURNS, "tools": [3]}, r"tools\.0: "),
        ({"conversations": {}}, "column 'conversations' must be a list"),
        (
            {"conversations": [{"from": "cat", "value": "x"}]},
            r"conversations\.0\.from: Input should be",
        ),
        ({"conversations": [{"value": "x"}]}, r"conversations\.0\.from: Field required"),
        ({"conversations": [{"from": "function_call", "value": "x"}]}, "function_call is no JSON"),
        ({"instruction": "", "output": "b"}, "column 'instruction' must be text"),
        (
            {"instruction": "a", "output": "b", "history": [["q"]]},
            "column 'history' must be a list",
        ),
        ({"prompt": "a", "completion": " "}, "column 'completion' must be text"),
    ],
)
def test_what_is_no_conversation_is_refused_with_its_place(
    fields: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "train.json"
    path.write_text(json.dumps(fields))
    with pytest.raises(TrainingError, match=rf"train\.json:1: .*{message}"):
        only(path)


def test_a_file_has_one_format(tmp_path: Path) -> None:
    path = write(tmp_path / "a", {"messages": TURNS}, {"input": "a", "target": "b"})
    with pytest.raises(TrainingError, match=r"a:2: a row of the format columns in a file of"):
        load_rows(path, Layout())


def test_a_format_that_is_set_is_the_only_one(tmp_path: Path) -> None:
    path = write(tmp_path / "a", {"messages": TURNS, "input": "a", "target": "b"})
    assert [*only(path, format="messages").messages] == TURNS
    with pytest.raises(TrainingError, match=r"no instruction and output .*data\.format=alpaca"):
        only(path, format="alpaca")
