"""Read the server-sent events that answer a list of prompts."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from client.errors import TransientError

# The error types of an item that may succeed when asked again, and those that only say "busy".
_BUSY = frozenset({"unavailable", "overloaded", "rate_limited"})
ENGINE_DIED = "engine_died"
_RETRYABLE = _BUSY | {"internal_error", "timeout", ENGINE_DIED}
# Those that say "less at a time".
_OVERLOADED = frozenset({"overloaded", "rate_limited", "timeout"})
# vLLM ends a request so when the engine drains or fails: the text is not the whole answer.
_UNFINISHED = frozenset({"abort", "error"})
CUT_THOUGHT = (
    "the model's thought was cut off at {} tokens (finish_reason {}), before any answer: raise"
    " max_tokens, take out stop, or set thinking to false, in --parameters"
)


@dataclass(frozen=True)
class Item:
    """The outcome of one prompt of a list: an answer, a failure worth a retry, or a refusal."""

    index: int
    text: str = ""
    finish_reason: str = ""
    usage: dict[str, Any] = field(default_factory=dict)
    tokens: int = 0
    model: str | None = None
    problem: TransientError | None = None
    refusal: str | None = None


class EventReader:
    """Turns the bytes of one stream into items; `done` once the server has said `[DONE]`."""

    def __init__(self) -> None:
        self.done = False
        self._rest = b""

    def feed(self, chunk: bytes) -> Iterator[Item]:
        """Yield the items that `chunk` completes; raise TransientError on what is not an event."""
        # httpx's aiter_lines would also cut at a U+2028 inside an answer. \n is always escaped
        # in JSON, so it ends a line and nothing else.
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            data = line.removeprefix(b"data:").strip()
            if data == b"[DONE]":
                self.done = True
            elif line.startswith(b"data:"):
                yield _parse_item(data)


def _parse_item(data: bytes) -> Item:
    try:
        event = json.loads(data)
        index, error = int(event["index"]), event.get("error")
        if error:
            return _failed_item(index, error)
        text, finish_reason = event["generated_text"], event["finish_reason"]
        text.encode("utf-8")  # half of a surrogate pair could not be written to the output
        usage = event.get("usage") or {}
        tokens = int(usage.get("completion_tokens", 0))
    except (ValueError, LookupError, TypeError, AttributeError):
        raise TransientError(
            f"the server sent an event that makes no sense: {data[:200]!r}"
        ) from None
    if not isinstance(finish_reason, str) or finish_reason in _UNFINISHED:
        return Item(index, problem=TransientError(f"the server broke off ({finish_reason})"))
    if not text and tokens and usage.get("reasoning_tokens") == tokens:
        return Item(index, refusal=CUT_THOUGHT.format(tokens, finish_reason))
    return Item(index, text, finish_reason, usage, tokens, event.get("model"))


def _failed_item(index: int, error: dict[str, Any]) -> Item:
    message = describe(error)
    error_type = error.get("error_type")
    if error_type in _RETRYABLE:
        problem = TransientError(
            message,
            counts=error_type not in _BUSY,
            overloaded=error_type in _OVERLOADED,
            died=error_type == ENGINE_DIED,
        )
        return Item(index, problem=problem)
    return Item(index, refusal=message)


def describe(error: dict[str, Any]) -> str:
    """The server's own words about an error, with its type and the parameter it names."""
    text = str(error.get("error") or error.get("message") or error)
    named = [f"{key} {error[key]}" for key in ("error_type", "param") if error.get(key)]
    return f"{text} ({', '.join(named)})" if named else text
