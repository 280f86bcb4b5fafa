"""Structured outputs that would cost the server more than an answer may: refused on every route.

The engine's grammar library lays out every item that an array may have. A minItems of 10**9 took
all of a machine's memory, and the server with it.
"""

import json
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
    if MARK in grammar:
        raise ValueError(f"a grammar may not hold the line {MARK.strip()!r}")
    if "%json" in grammar:
        raise ValueError("a grammar may hold no %json: give the JSON schema under json")
    _refuse_long(grammar, constraint.regex, *(constraint.choice or ()))
    for schema in filter(None, (constraint.json, constraint.structural_tag)):
        _refuse_costly_schema(_parsed(schema))


def _refuse_long(*texts: str | None) -> None:
    for text in filter(None, texts):
        if len(text) > MOST_BYTES:
            raise ValueError(f"structured_outputs: {len(text)} characters, at most {MOST_BYTES}")


def _refuse_costly_schema(schema: Any) -> None:
    items, depth, level = 0.0, 0, [schema]
    while level:  # level by level: a function that calls itself would use up Python's stack
        depth += 1
        if depth > DEEPEST:
            raise ValueError(f"the JSON schema is nested deeper than {DEEPEST} levels")
        items += sum(map(_items, level))
        level = [inner for value in level for inner in _members(value)]
    if items > MOST_ITEMS:
        raise ValueError(
            f"minItems and maxItems of the JSON schema add up to {items:.0f}, at most {MOST_ITEMS}"
        )
    size = len(json.dumps(schema))
    if size > MOST_BYTES:
        raise ValueError(f"the JSON schema has {size} bytes, at most {MOST_BYTES}")


def _parsed(schema: Any) -> Any:
    try:
        return json.loads(schema) if isinstance(schema, str) else schema
    except RecursionError as error:
        raise ValueError("the JSON schema is nested too deeply") from error


def _items(value: Any) -> float:
    if not isinstance(value, dict):
        return 0
    counts = (value.get(name) for name in ("minItems", "maxItems"))
    return sum(max(0, count) for count in counts if isinstance(count, int | float))


def _members(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []
