"""The OpenAPI document says what the service does."""

from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator

from service.app import create_app
from service.settings import Settings
from tests.service.bad_requests import BAD_REQUESTS
from tests.service.fake import FakeEngine

PROBES = {"/livez", "/readyz", "/health"}
pytestmark = pytest.mark.anyio
NOT_IN_JSON_SCHEMA = {  # and in no other language for documents: what depends on the model
    "blank prompt",
    "too many prompts",
    "too long a prompt",
    "control token in the prompt",
    "control token in the system text",
    "control token in the history",
    "control token in an answer of the history",
    "thinking of a model without thoughts",
    "NaN",
    "n greedy",
    "max_tokens too large",
    "min_tokens above max_tokens",
    "min_tokens above the room",
    "stop_token_ids outside the vocabulary",
    "allowed_token_ids outside the vocabulary",
    "logit_bias outside the vocabulary",
}


@pytest.fixture
async def document(client: httpx.AsyncClient) -> Any:
    return (await client.get("/openapi.json")).json()


def validator(document: Any, name: str) -> Draft202012Validator:
    return Draft202012Validator({"$ref": f"#/components/schemas/{name}", **document})


async def test_every_error_is_told_with_one_shape_and_422_never(document: Any) -> None:
    for path, operations in document["paths"].items():
        for operation in operations.values():
            statuses = set(operation["responses"])
            assert {"200", "408", "413", "500"} <= statuses
            assert "422" not in statuses
            for status in statuses - {"200"}:
                (content,) = operation["responses"][status]["content"].values()
                shape = "StateAnswer" if status == "503" and path in PROBES else "ErrorBody"
                assert content["schema"] == {"$ref": f"#/components/schemas/{shape}"}
    generate = document["paths"]["/generate"]["post"]["responses"]
    assert {"400", "429", "503", "504"} <= set(generate)
    assert "text/event-stream" in generate["200"]["content"]


@pytest.mark.parametrize("keys", ["", "secret"])
def test_the_keys_that_a_route_asks_for_are_told(
    tokenizer: Any, settings: Settings, keys: str
) -> None:
    keyed = settings.model_copy(update={"api_keys": keys})
    paths = create_app(FakeEngine(tokenizer), keyed).openapi()["paths"]
    assert paths["/readyz"]["get"]["security"] == [{}]
    assert paths["/admin/adapters"]["get"]["security"] == [{"adminKey": []}]
    needed = paths["/generate"]["post"]
    assert needed["security"] == ([{"key": []}] if keys else [{}, {"key": []}])
    assert ("401" in needed["responses"]) == bool(keys)


async def test_bodies_that_are_refused_are_refused_by_the_document_too(document: Any) -> None:
    body = validator(document, "GenerateRequest")
    allowed = {bad.name for bad in BAD_REQUESTS if bad.content is None and body.is_valid(bad.body)}
    assert allowed == NOT_IN_JSON_SCHEMA


@pytest.mark.parametrize(
    ("body", "valid"),
    [
        ({"prompt": "a"}, True),
        ({"input": ["a", ""]}, True),
        ({"prompt": "a", "input": "a"}, False),
        ({}, False),
        ({"structured_outputs": {"regex": "a", "json": None}}, True),
        ({"structured_outputs": {"regex": "a", "json": {}}}, False),
        ({"structured_outputs": {}}, False),
        ({"use_beam_search": True, "best_of": 2}, True),
        ({"use_beam_search": True}, False),
        ({"best_of": 2}, False),
        ({"num_beams": 2, "beam_width": 2}, False),
        ({"max_tokens": 3, "max_new_tokens": None}, True),
    ],
)
async def test_rules_between_fields_are_told(
    client: httpx.AsyncClient, document: Any, body: dict[str, Any], valid: bool
) -> None:
    whole = body if not body or "prompt" in body or "input" in body else with_parameters(body)
    assert validator(document, "GenerateRequest").is_valid(whole) == valid
    assert (await client.post("/generate", json=whole)).is_success == valid


def with_parameters(parameters: dict[str, Any]) -> dict[str, Any]:
    return {"prompt": "a", "parameters": parameters}
