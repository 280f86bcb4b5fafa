"""Files as disks, editors and half-finished downloads leave them: bytes, and values in JSON."""

import contextlib
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

ODD: list[Any] = [
    *(None, True, -1, 0, 3, 1.5, 1e308, "", "x", "\ud800", [], {}, [[]], [None], {"": None}),
    *("../x", "/etc/passwd", ["a", 1], {"a": {"b": []}}),
]
TEXTS = [b"", b"\0" * 64, b"\xff\xfe", b"[" * 100_000, b"9" * 5000, b"null", b"[]", b'""', b"{}"]


def mutated(content: bytes) -> st.SearchStrategy[bytes]:
    """`content` cut, flipped, grown, replaced; where it is JSON, with a value that does not fit."""
    kinds = [_bytes(content), st.sampled_from(TEXTS)]
    try:
        value = json.loads(content)
    except ValueError:
        lines = content.split(b"\n")
        if len(lines) > 2 and lines[0].startswith(b"{"):
            kinds += [_line(lines)] * 3
    else:
        kinds += [_value(value)] * 4
    return st.one_of(kinds)


@st.composite
def _bytes(draw: st.DrawFn, content: bytes) -> bytes:
    start = draw(st.integers(0, max(0, min(len(content), 4000) - 1)))
    stop = draw(st.integers(start, min(len(content), start + 40)))
    return (
        content[:start]
        + draw(
            st.one_of(
                st.just(b""),  # cut short
                st.binary(max_size=9).map(lambda new: new + content[stop:]),
                st.just(content[stop:]),
            )
        )
    )


@st.composite
def _line(draw: st.DrawFn, lines: list[bytes]) -> bytes:
    place = draw(st.integers(0, len(lines) - 2))
    return b"\n".join([*lines[:place], draw(_value(json.loads(lines[place]))), *lines[place + 1 :]])


@st.composite
def _value(draw: st.DrawFn, value: Any) -> bytes:
    """One value somewhere in `value` replaced, left out, or put beside an unknown key."""
    changed = json.loads(json.dumps(value))
    parents = [parent for parent in _containers(changed) if parent]
    if not parents:
        return json.dumps(draw(st.sampled_from(ODD))).encode()
    parent = draw(st.sampled_from(parents[:200]))
    keys = [*parent] if isinstance(parent, dict) else [*range(len(parent))]
    key = draw(st.sampled_from(keys[:50]))
    action = draw(st.sampled_from(["replace", "replace", "leave out", "add"]))
    if action == "replace":
        parent[key] = draw(st.sampled_from(ODD))
    elif action == "leave out":
        del parent[key]
    elif isinstance(parent, dict):
        parent["unknown"] = draw(st.sampled_from(ODD))
    return json.dumps(changed).encode()


def _containers(value: Any) -> Iterator[Any]:
    if isinstance(value, dict | list):
        yield value
        for part in value.values() if isinstance(value, dict) else value:
            yield from _containers(part)


def ends_well(
    command: Callable[[list[str]], int], arguments: list[object], path: Path, content: bytes
) -> None:
    """With `content` in `path` the command succeeds, or ends with 2 and names the file.

    The folder that the file is in will do where the file as such is fine. Anything that is raised
    fails the test.
    """
    before, output = path.read_bytes(), io.StringIO()
    path.write_bytes(content)
    try:
        with contextlib.redirect_stderr(output), contextlib.redirect_stdout(output):
            code = command([*map(str, arguments)])
    finally:
        if path.exists():  # a damaged checkpoint is set aside
            path.write_bytes(before)
    told = output.getvalue()
    assert "Traceback" not in told
    assert code == 0 or (code == 2 and (path.name in told or str(path.parent) in told)), told[-600:]
