"""The formats that people keep instruction data in, each to a conversation."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias, get_args

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from training.data.messages import Message, Row, conversation, rounds
from training.errors import TrainingError

Format: TypeAlias = Literal["columns", "messages", "sharegpt", "alpaca", "completion"]
Fields: TypeAlias = Mapping[str, Any]
Speaker: TypeAlias = Literal[
    "human", "user", "gpt", "assistant", "system", "observation", "tool", "function_call"
]
ROUNDS: TypeAdapter[list[tuple[str, str]]] = TypeAdapter(list[tuple[str, str]])
KEYS: dict[str, tuple[str, ...]] = {
    "messages": ("messages",),
    "sharegpt": ("conversations",),
    "alpaca": ("instruction", "output"),
    "completion": ("prompt", "completion"),
}
"""The columns that tell a format, beside the recipe's own."""
STAND_IN = {"role": "assistant", "content": "?", "from": "gpt", "value": "?"}
"""For the answer of a row that has none."""
ROLES = {"human": "user", "gpt": "assistant", "observation": "tool", "function_call": "assistant"}


@dataclass(frozen=True)
class Layout:
    """How the rows of a file are laid out, and which of their answers are learned."""

    format: Literal["auto"] | Format = "auto"
    prompt: str = "input"
    response: str = "target"
    history: str | None = None
    system: str | None = None
    learn: Literal["last", "all"] = "last"
    answered: bool = True
    """False: a test set, whose answers are empty or not there."""

    @property
    def formats(self) -> tuple[Format, ...]:
        """Those that a row may have, the first that fits."""
        if self.format != "auto":
            return (self.format,)
        known: tuple[Format, ...] = get_args(Format)
        return known if self.answered else known[::-1]  # a test set of alpaca's has an input, too

    def keys(self, name: str) -> tuple[str, ...]:
        """The columns that a row of that format has."""
        keys = KEYS.get(name, (self.prompt, self.response))
        return keys if self.answered else keys[:1]


def recognise(fields: Fields, layout: Layout, where: str) -> Format:
    """The format of a row: the one that is set, or the first whose columns are there."""
    for name in layout.formats:
        if fields.keys() >= {*layout.keys(name)}:
            return name
    raise TrainingError(f"{where}: {_missing(fields, layout)}")


def _missing(fields: Fields, layout: Layout) -> str:
    has = f"(it has {', '.join(fields)})"
    if layout.format not in ("auto", "columns"):
        keys = " and ".join(layout.keys(layout.format))
        return f"no {keys} in it {has}, which data.format={layout.format} means"
    missing = layout.prompt if layout.prompt not in fields else layout.response
    return (
        f"no column {missing!r} {has}: name yours with data.prompt=… and data.response=…;"
        " messages, conversations, instruction with output, and prompt with completion are known by"
        " themselves"
    )


def to_row(fields: Fields, form: Format, layout: Layout, where: str) -> Row:
    """The conversation in a row. Raises TrainingError where it is none."""
    whole = fields if layout.answered else _with_answer(fields, form, layout)
    return _READERS[form](whole, layout, where)


def _with_answer(fields: Fields, form: Format, layout: Layout) -> Fields:
    """The row with something in place of an answer that is not there."""
    name = {"alpaca": "output", "columns": layout.response}.get(form) or KEYS[form][-1]
    value = fields.get(name)
    if form in ("messages", "sharegpt"):
        return {**fields, name: _ending_in_answer(value)}
    if isinstance(fields.get("prompt"), list):
        return {**fields, name: value or [STAND_IN]}
    return {**fields, name: value or STAND_IN["content"]}


def _ending_in_answer(turns: object) -> object:
    if not isinstance(turns, list):
        return turns
    return [*(turns[:-1] if any(map(_is_answer, turns[-1:])) else turns), STAND_IN]


def _is_answer(turn: object) -> bool:
    roles = (turn.get("role"), turn.get("from")) if isinstance(turn, dict) else ()
    return "assistant" in roles or "gpt" in roles


def _columns(fields: Fields, layout: Layout, where: str) -> Row:
    question = _text(fields, layout.prompt, where)
    return _asked(fields, layout, where, question, layout.response)


def _alpaca(fields: Fields, layout: Layout, where: str) -> Row:
    question = _text(fields, "instruction", where)
    if fields.get("input"):
        question = f"{question}\n{_text(fields, 'input', where)}"
    system, history = layout.system or "system", layout.history or "history"
    known = replace(layout, system=system, history=history)
    return _asked(fields, known, where, question, "output")


def _completion(fields: Fields, layout: Layout, where: str) -> Row:
    """Two texts, or two lists of messages."""
    prompt, answer = fields["prompt"], fields["completion"]
    if isinstance(prompt, list) and isinstance(answer, list):
        both = [*prompt, *answer]
        return conversation(both, where, layout.learn, _tools(fields), "prompt + completion")
    return _asked(fields, layout, where, _text(fields, "prompt", where), "completion")


def _asked(fields: Fields, layout: Layout, where: str, question: str, answer: str) -> Row:
    """A question, what stands before it, and the column with its answer."""
    earlier = _rounds(fields, layout.history, where)
    messages = rounds([*earlier, (question, _text(fields, answer, where))])
    return conversation([*_system(fields, layout.system, where), *messages], where, layout.learn)


def _messages(fields: Fields, layout: Layout, where: str) -> Row:
    return conversation(fields["messages"], where, layout.learn, _tools(fields))


class _Turn(BaseModel):
    model_config = ConfigDict(extra="allow")
    speaker: Speaker = Field(alias="from")
    value: str

    @property
    def message(self) -> Message:
        """The same in OpenAI's words. Raises ValueError for a call that is no JSON."""
        said: Message = {"role": ROLES.get(self.speaker, self.speaker), "content": self.value}
        if self.speaker == "function_call":
            calls = json.loads(self.value)
            calls = calls if isinstance(calls, list) else [calls]
            said |= {"content": None, "tool_calls": [{"function": call} for call in calls]}
        return {**(self.model_extra or {}), **said}


def _sharegpt(fields: Fields, layout: Layout, where: str) -> Row:
    turns = fields["conversations"]
    if not isinstance(turns, list):
        raise TrainingError(f"{where}: column 'conversations' must be a list of turns")
    turned = [_turn(turn, f"{where}: conversations.{place}") for place, turn in enumerate(turns)]
    messages = [*_system(fields, layout.system or "system", where), *turned]
    return conversation(messages, where, layout.learn, _tools(fields), "conversations")


def _tools(fields: Fields) -> object:
    return fields.get("tools") or fields.get("functions")


def _turn(turn: object, where: str) -> Message:
    try:
        return _Turn.model_validate(turn).message
    except ValidationError as error:
        detail = error.errors()[0]
        place = "".join(f".{each}" for each in detail["loc"])
        raise TrainingError(f"{where}{place}: {detail['msg']}") from error
    except (ValueError, RecursionError) as error:
        raise TrainingError(f"{where}: the function_call is no JSON: {error}") from error


_READERS: dict[str, Callable[[Fields, Layout, str], Row]] = {
    "columns": _columns,
    "messages": _messages,
    "sharegpt": _sharegpt,
    "alpaca": _alpaca,
    "completion": _completion,
}


def _system(fields: Fields, column: str | None, where: str) -> list[Message]:
    if column is None or not fields.get(column):
        return []
    return [{"role": "system", "content": _text(fields, column, where)}]


def _rounds(fields: Fields, column: str | None, where: str) -> list[tuple[str, str]]:
    if column is None or not fields.get(column):
        return []
    try:
        return ROUNDS.validate_python(fields[column])
    except ValidationError as error:
        raise TrainingError(
            f"{where}: column {column!r} must be a list of [question, answer] pairs of text"
        ) from error


def _text(fields: Fields, column: str, where: str) -> str:
    value = fields.get(column)
    if not isinstance(value, str) or not value.strip():
        raise TrainingError(f"{where}: column {column!r} must be text that is not empty")
    return value
