"""Request bodies of the HTTP contract. Unknown fields are refused."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from service.parameters import NonEmpty, Parameters, RequestId, Text, TokenId
from service.parameters_schema import document_alias


class GenerateRequest(BaseModel):
    """Body of POST /generate."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra=document_alias)

    prompt: Text | list[Text] = Field(
        description="one prompt, or a list; `input` is accepted in its place"
    )
    parameters: Parameters = Parameters()
    stream: bool = Field(False, description="answer with server-sent events")

    @model_validator(mode="before")
    @classmethod
    def _input_is_prompt(cls, body: Any) -> Any:
        if not isinstance(body, dict) or "input" not in body:
            return body
        if "prompt" in body:
            raise ValueError("set prompt or its alias input, not both")
        return {"prompt" if name == "input" else name: value for name, value in body.items()}


class TokenizeRequest(BaseModel):
    """Body of POST /tokenize."""

    model_config = ConfigDict(extra="forbid", strict=True)

    prompt: NonEmpty
    raw: bool = Field(False, description="without the chat template")


class DetokenizeRequest(BaseModel):
    """Body of POST /detokenize."""

    model_config = ConfigDict(extra="forbid", strict=True)

    tokens: list[TokenId] = Field(max_length=2**20)


class AbortRequest(BaseModel):
    """Body of POST /abort."""

    model_config = ConfigDict(extra="forbid", strict=True)

    request_id: RequestId = Field(description="request_id or X-Request-Id of that request")


class LoadAdapterRequest(BaseModel):
    """Body of POST /admin/adapters."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: str = Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")
    path: NonEmpty = Field(description="an adapter directory as peft saves it, on the server")
