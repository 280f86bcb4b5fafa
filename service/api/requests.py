"""Request bodies of the HTTP contract. Unknown fields are refused."""

from typing import Any

from pydantic import ConfigDict, Field, model_validator

from service.adapter import NAME
from service.parameters import AroundPrompt, Fields, NonEmpty, Parameters, RequestId, Text, TokenId
from service.parameters_schema import document_alias


class GenerateRequest(Fields):
    """Body of POST /generate."""

    model_config = ConfigDict(json_schema_extra=document_alias)

    prompt: Text | list[Text] = Field(
        description="one prompt, or a list; `input` is accepted in its place"
    )
    parameters: Parameters = Parameters()
    stream: bool = Field(False, description="answer with server-sent events")

    @model_validator(mode="before")
    @classmethod
    def _input_is_prompt(cls, body: Any) -> Any:
        if not isinstance(body, dict):
            return body
        rest = dict(body)
        alias = rest.pop("input", None)
        if alias is None:
            return rest
        if rest.get("prompt") is not None:
            raise ValueError("set prompt or its alias input, not both")
        return {**rest, "prompt": alias}


class TokenizeRequest(AroundPrompt):
    """Body of POST /tokenize."""

    prompt: NonEmpty


class DetokenizeRequest(Fields):
    """Body of POST /detokenize."""

    tokens: list[TokenId] = Field(max_length=2**20)


class AbortRequest(Fields):
    """Body of POST /abort."""

    request_id: RequestId = Field(description="request_id or X-Request-Id of that request")


class LoadAdapterRequest(Fields):
    """Body of POST /admin/adapters."""

    name: str = Field(pattern=f"^{NAME.pattern}$")
    path: NonEmpty = Field(description="an adapter directory as peft saves it, on the server")
