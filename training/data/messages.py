"""Conversations as chat templates take them: OpenAI's messages, checked."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from training.errors import TrainingError

Message = dict[str, Any]
"""role and content; reasoning_content, tool_calls, tool_call_id and name where there are any."""
THOUGHTS = ("reasoning_content", "reasoning", "thinking")
FLAGS = ("weight", "loss", "train")
"""Names for whether an answer is learned."""
SPELLINGS = {"developer": "system", "function": "tool"}


@dataclass(frozen=True)
class Row:
    """One conversation, and where it came from. Its last message is an answer."""

    messages: tuple[Message, ...]
    where: str
    """`file:line`, for messages."""
    learned: tuple[int, ...]
    """Places of the answers that are learned, in their order."""
    tools: tuple[Message, ...] = ()
    """JSON schemas of the functions that the model may call."""
    task: str | None = None
    """Name of the task that it belongs to, where a column says so."""

    @classmethod
    def of(
        cls, prompt: str, answer: str, where: str, history: Sequence[tuple[str, str]] = ()
    ) -> "Row":
        """A question and its answer, after earlier rounds of both."""
        messages = rounds([*history, (prompt, answer)])
        return cls(tuple(messages), where, (len(messages) - 1,))


def rounds(pairs: Iterable[Sequence[str]]) -> list[Message]:
    """Questions and answers in turns."""
    return [
        {"role": role, "content": text}
        for pair in pairs
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]


def encodable(text: str) -> str:
    r"""Refuse half a character: JSON can write "\ud83d", which no UTF-8 text and no token holds."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"holds half of a character (\\u{ord(text[error.start]):04x}, at character"
            f" {error.start}): what wrote the file cut an emoji or the like in two"
        ) from error
    return text


def _parsed(value: object) -> object:
    """OpenAI writes an object as JSON in a text; templates are given the object, as by vLLM."""
    return json.loads(value) if isinstance(value, str) and value.strip() else value or None


def _arguments(value: object) -> object:
    """Of a call; one without parameters has none."""
    return (json.loads(value) if isinstance(value, str) and value.strip() else value) or {}


def _wrapped(tools: object) -> object:
    """Tools as OpenAI's requests have them; some files have the function alone."""
    parsed = _parsed(tools)
    if not isinstance(parsed, list):
        return parsed
    return [_as_tool(tool) for tool in parsed]


def _as_tool(tool: object) -> object:
    alone = isinstance(tool, dict) and "name" in tool and "function" not in tool
    return {"type": "function", "function": tool} if alone else tool


def _spelled(role: object) -> object:
    return SPELLINGS.get(role, role) if isinstance(role, str) else role


def _joined(content: object) -> object:
    """Texts in parts are lines of one; what is no text stays as it is."""
    if not isinstance(content, list):
        return "" if content is None else content
    return "\n".join(part.text for part in _PARTS.validate_python(content))


Text = Annotated[str, AfterValidator(encodable)]
Objects = Annotated[list[dict[str, Any]] | None, BeforeValidator(_wrapped)]


def _values(message: dict[str, Any], names: Iterable[str]) -> list[Any]:
    """What is there under any of these names."""
    return [message[name] for name in names if message.get(name) not in (None, "")]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")
    type: Literal["text"]
    text: str


_PARTS: TypeAdapter[list[_Part]] = TypeAdapter(list[_Part])


class _Function(BaseModel):
    name: Text
    arguments: Annotated[dict[str, Any], BeforeValidator(_arguments)] = {}


class _ToolCall(BaseModel):
    type: Literal["function"] = "function"
    id: str | None = None
    function: _Function


class _Message(BaseModel):
    role: Annotated[Literal["system", "user", "assistant", "tool"], BeforeValidator(_spelled)]
    content: Annotated[Text, BeforeValidator(_joined)] = ""
    reasoning_content: Text | None = None
    tool_calls: Annotated[list[_ToolCall] | None, BeforeValidator(_parsed)] = None
    tool_call_id: str | None = None
    name: str | None = None
    learn: list[bool] = []
    """What the file says of it, by any name: all have to be true."""

    @model_validator(mode="before")
    @classmethod
    def _one_spelling(cls, message: object) -> object:
        """Of several names the first that is not empty: files with one schema have nulls."""
        if not isinstance(message, dict):
            return message
        thoughts, learn = _values(message, THOUGHTS), _values(message, FLAGS)
        call = message.get("function_call")
        calls = {"tool_calls": [{"function": call}]} if call else {}
        return {**message, "reasoning_content": next(iter(thoughts), None), "learn": learn, **calls}

    @property
    def is_empty(self) -> bool:
        """Whether nothing is said or called."""
        return not (self.content.strip() or self.tool_calls)


class _Conversation(BaseModel):
    messages: list[_Message]
    tools: Objects = None

    def faults(self) -> Iterator[str]:
        """What makes it no sample: the place, and what is wrong there."""
        roles = self._roles
        for place, message in enumerate(self.messages):
            if message.is_empty:
                yield f".{place}: the {message.role} message is empty"
        if "system" in roles[1:]:
            yield f".{roles.index('system', 1)}: a system text stands first, or not at all"
        if "user" not in roles:
            yield ": no message of a user in it"
        elif roles[-1] != "assistant":
            yield ": the last message must be the assistant's"

    def learned(self, learn: str) -> tuple[int, ...]:
        """Places of the answers that carry a loss."""
        chosen = self._answers[-1:] if learn == "last" else self._answers
        return tuple(place for place in chosen if all(self.messages[place].learn))

    @property
    def _answers(self) -> list[int]:
        """A greeting before the first question is none."""
        first = self._roles.index("user")
        return [at for at, role in enumerate(self._roles) if role == "assistant" and at > first]

    @property
    def _roles(self) -> list[str]:
        return [message.role for message in self.messages]


def conversation(
    messages: object, where: str, learn: str, tools: object = None, column: str = "messages"
) -> Row:
    """A row of raw messages; `learn` is `last` or `all`, of the answers.

    An answer with `weight: 0`, `loss: false` or `train: false` is not learned.
    Raises TrainingError, which names the column, for what is no conversation.
    """
    try:
        checked = _Conversation.model_validate({"messages": messages, "tools": tools})
    except (ValidationError, RecursionError) as error:
        raise TrainingError(f"{where}: {_first(error, column)}") from error
    if fault := next(checked.faults(), None):
        raise TrainingError(f"{where}: {column}{fault}")
    learned = checked.learned(learn)
    if not learned:
        raise TrainingError(f"{where}: {column}: no answer in it is to be learned")
    kept = [
        message.model_dump(exclude={"learn"}, exclude_none=True) for message in checked.messages
    ]
    row = Row(tuple(kept), where, learned, tuple(checked.tools or ()))
    _refuse_halves(row, column)
    return row


def _refuse_halves(row: Row, column: str) -> None:
    """Of characters, in calls and tools as well."""
    for text in texts([*row.messages, *row.tools]):
        try:
            encodable(text)
        except ValueError as error:
            raise TrainingError(f"{row.where}: {column}: {error}") from error


def _first(error: Exception, column: str) -> str:
    """The first thing that is wrong, at its place under the column's own name."""
    if not isinstance(error, ValidationError):
        return f"{column}: nested too deeply"
    detail = error.errors()[0]
    name, *place = map(str, detail["loc"])
    named = [column if name == "messages" else name, *place]
    return f"{'.'.join(named)}: {detail['msg'].removeprefix('Value error, ')}"


def texts(messages: Sequence[Message]) -> Iterator[str]:
    """Every text in them, names of members and arguments of calls included."""
    pending: list[Any] = [*messages]
    while pending:
        value = pending.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            pending += [*value, *value.values()]
        elif isinstance(value, list):
            pending += value
