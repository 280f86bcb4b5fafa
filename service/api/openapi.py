"""The OpenAPI document: what every route can answer, and which key it needs."""

from typing import Any

from fastapi import FastAPI
from pydantic import TypeAdapter

from service.api.answers import Delta, Result, ResultList
from service.errors import ErrorBody
from service.http.access_log import PROBES
from service.settings import Settings

SCHEMAS = "#/components/schemas/"
Responses = dict[int | str, dict[str, Any]]

REFUSALS = {
    400: "The request is wrong: `param` names the field",
    401: "No key, or not one that is known",
    404: "There is no such thing here",
    408: "The body was not there in time",
    413: "The body is too large",
    429: "As many prompts as allowed are under way",
    500: "A bug of the service; its log has the details",
    503: "The model is loading, the service is draining, or the engine has died",
    504: "`timeout_s` is over; the engine has stopped working on the prompt",
}
HEADERS: dict[int, dict[str, Any]] = {
    401: {"WWW-Authenticate": {"schema": {"type": "string"}}},
    429: {"Retry-After": {"description": "seconds", "schema": {"type": "integer"}}},
    503: {"Retry-After": {"description": "seconds", "schema": {"type": "integer"}}},
}
REQUEST_ID = {
    "name": "X-Request-Id",
    "in": "header",
    "description": "named in the answer and in the log; a new one when it is not of the form "
    "[A-Za-z0-9._:-]{1,128}",
    "schema": {"type": "string"},
}
KEYS = {
    "key": {"type": "http", "scheme": "bearer", "description": "one of api_keys"},
    "adminKey": {"type": "http", "scheme": "bearer", "description": "one of admin_keys"},
}
EVENT_DATA = [
    TypeAdapter(Delta).json_schema(),
    *({"$ref": SCHEMAS + name} for name in ("Result", "ListItem", "ErrorBody")),
]
EVENT = {
    "type": "object",
    "properties": {
        "data": {
            "anyOf": [
                {
                    "type": "string",
                    "contentMediaType": "application/json",
                    "contentSchema": {"anyOf": EVENT_DATA},
                },
                {"const": "[DONE]", "description": "the last event"},
            ]
        }
    },
    "required": ["data"],
}
"""One server-sent event, under itemSchema as FastAPI documents its own."""

GENERATED: Responses = {
    200: {
        "model": Result | ResultList,
        "description": "The answer; a list's prompts fail one by one. With `stream`, one prompt: "
        "what is new, again and again, then the whole answer; a list: each result as it finishes",
        "content": {"text/event-stream": {"itemSchema": EVENT}},
    }
}


def refusals(*statuses: int) -> Responses:
    """What a route may answer beside 200, all in one shape."""
    return {
        status: {
            "model": ErrorBody,
            "description": REFUSALS[status],
            "headers": dict(HEADERS.get(status, {})),
        }
        for status in statuses
    }


def complete(app: FastAPI, settings: Settings) -> None:
    """Add to the app's document what the gate does before any route, and drop 422: it is a 400."""
    document = app.openapi()  # kept by the app: this is what GET /openapi.json answers with
    components = document["components"]
    components["securitySchemes"] = KEYS
    for name in ("HTTPValidationError", "ValidationError"):
        components["schemas"].pop(name, None)
    for path, operations in document["paths"].items():
        for operation in operations.values():
            _complete(operation, _security(path, settings))


def _complete(operation: dict[str, Any], security: list[dict[str, list[str]]]) -> None:
    operation["security"] = security
    operation.setdefault("parameters", []).append(REQUEST_ID)
    answers = operation["responses"]
    answers.pop("422", None)
    for status in (*([401] if {} not in security else []), 408, 413, 500):
        answers[str(status)] = _refusal(status)
    for status in sorted(answers):
        described = answers[status] = answers.pop(status)
        described.setdefault("headers", {})["X-Request-Id"] = {"schema": {"type": "string"}}


def _refusal(status: int) -> dict[str, Any]:
    schema = {"$ref": SCHEMAS + "ErrorBody"}
    return {
        "description": REFUSALS[status],
        "content": {"application/json": {"schema": schema}},
        "headers": dict(HEADERS.get(status, {})),
    }


def _security(path: str, settings: Settings) -> list[dict[str, list[str]]]:
    """An empty object among them: no key is needed."""
    if path.startswith("/admin/"):
        return [{"adminKey": []}]
    if path in PROBES or (path == "/metrics" and not settings.metrics_need_key):
        return [{}]
    return [{"key": []}] if _needs_key(settings) else [{}, {"key": []}]


def _needs_key(settings: Settings) -> bool:
    return bool(settings.api_keys.split()) or settings.api_key_file is not None
