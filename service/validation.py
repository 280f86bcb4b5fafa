"""pydantic's complaints about a request body, in the contract's words."""

from collections.abc import Mapping, Sequence
from typing import Any

from service.errors import InvalidRequestError


def first_problem(details: Sequence[Mapping[str, Any]]) -> InvalidRequestError:
    """The error to answer with: the first field that is wrong, as deep as pydantic saw into it."""
    params = [_param(detail["loc"]) for detail in details]
    deepest = max((param for param in params if param.startswith(params[0])), key=len)
    detail, param = details[params.index(deepest)], deepest
    if detail["type"] == "json_invalid":
        return InvalidRequestError(f"the body is not JSON: {detail['ctx']['error']}", "body")
    if detail["type"] == "extra_forbidden":
        return InvalidRequestError(f"unknown field {param!r}; GET /docs lists all", param)
    if param == "prompt" and detail["type"] in ("string_type", "list_type"):
        return InvalidRequestError("prompt: must be a string or a list of strings", param)
    message = str(detail["msg"]).removeprefix("Value error, ")
    return InvalidRequestError(f"{param}: {message}" if param else message, param or "body")


def _param(loc: Sequence[int | str]) -> str:
    """A field's path, without the members of unions ("list[str]") that pydantic puts into it."""
    path = [part for part in loc if part != "body"]
    depth = 2 if path[:1] == ["parameters"] else 1
    numbers = [part for part in path[depth:] if isinstance(part, int)]
    return ".".join(str(part) for part in [*path[:depth], *numbers])
