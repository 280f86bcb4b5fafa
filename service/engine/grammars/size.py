"""Structured outputs that would cost the server more than an answer may: refused on every route.

The engine's grammar library lays out every item that an array may have. A minItems of 10**9 took
all of a machine's memory, and the server with it.
"""

import json
from itertools import islice
from typing import Any

from service.engine.grammars.bad_words import MARK

MOST_ITEMS = 10_000
MOST_BYTES = 2**16
DEEPEST = 100


def refuse_costly(constraint: Any) -> None:
    """Raise ValueError when vLLM's StructuredOutputsParams are too large to be compiled."""
    if constraint is None:
        return
    grammar = constraint.grammar or ""
    if MARK in f"{grammar}{constraint.regex}":
        raise ValueError(f"a grammar may not hold the line {MARK.strip()!r}")
    if "%json" in grammar:
        raise ValueError("a grammar may hold no %json: give the JSON schema under json")
    _refuse_long(grammar, constraint.regex, *(constraint.choice or ()))
    for schema in filter(None, (constraint.json, constraint.structural_tag)):
        schema_text(_parsed(schema))


def schema_text(schema: Any) -> str:
    """A JSON schema as JSON. Raises ValueError when it is too large to be compiled."""
    _refuse_costly_schema(schema)
    text = json.dumps(schema)
    _refuse_larger(len(text))
    return text


def _refuse_long(*texts: str | None) -> None:
    for text in filter(None, texts):
        if len(text) > MOST_BYTES:
            raise ValueError(f"{len(text)} characters, at most {MOST_BYTES}")


def _refuse_costly_schema(schema: Any) -> None:
    items, size, depth, level = 0.0, 0, 0, [schema]
    while level:  # level by level: a function that calls itself would use up Python's stack
        depth += 1
        if depth > DEEPEST:
            raise ValueError(f"the JSON schema is nested deeper than {DEEPEST} levels")
        below: list[Any] = []
        for value in level:
            items += _items(value)
            size += _size(value)
            _refuse_larger(size)  # what is beyond is not looked at
            below += _members(value)
        level = below
    if items > MOST_ITEMS:
        raise ValueError(
            f"minItems and maxItems of the JSON schema add up to {items:.0f}, at most {MOST_ITEMS}"
        )


def _parsed(schema: Any) -> Any:
    if not isinstance(schema, str):
        return schema
    _refuse_larger(len(schema))
    try:
        return json.loads(schema)
    except RecursionError as error:
        raise ValueError("the JSON schema is nested too deeply") from error


def _refuse_larger(size: int) -> None:
    if size > MOST_BYTES:
        raise ValueError(f"the JSON schema has more than {MOST_BYTES} bytes")


def _size(value: Any) -> int:
    """At least so many bytes of JSON, without what is in its members."""
    names = islice(value, MOST_BYTES) if isinstance(value, dict) else ()
    return sum(map(len, names)) + (len(value) if isinstance(value, str | list | dict) else 1)


def _items(value: Any) -> float:
    if not isinstance(value, dict):
        return 0
    counts = (value.get(name) for name in ("minItems", "maxItems"))
    return sum(max(0, count) for count in counts if isinstance(count, int | float))


def _members(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []
