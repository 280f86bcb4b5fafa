"""Answers of the HTTP contract: their members and types, as the OpenAPI document tells them."""

from typing import Any, NotRequired

from pydantic import ConfigDict
from typing_extensions import TypedDict

CLOSED = ConfigDict(extra="forbid")


class ItemFailure(TypedDict):
    """Why one prompt of a list has no answer."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]

    error: str
    error_type: str
    param: str | None


class ErrorBody(ItemFailure):
    """Every answer that is not 200, and the last event of a stream that failed."""

    request_id: str | None


class Usage(TypedDict):
    """Tokens."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Logprob(TypedDict):
    """Natural log of a token's probability."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]

    token_id: int
    token: str
    logprob: float


class PositionLogprobs(Logprob):
    """The token at one position, and the likeliest ones there."""

    top_logprobs: list[Logprob]


class Output(TypedDict):
    """One of several texts for a prompt."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]

    index: int
    generated_text: str
    finish_reason: str | None
    num_output_tokens_cf: int
    logprobs: NotRequired[list[PositionLogprobs]]


class Result(TypedDict):
    """The answer to one prompt; `outputs` when more than one was asked for."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]

    generated_text: str | None
    finish_reason: str | None
    usage: Usage
    request_id: str
    model: str
    error: ItemFailure | None
    num_output_tokens_cf: int
    logprobs: NotRequired[list[PositionLogprobs]]
    outputs: NotRequired[list[Output]]


class ListItem(Result):
    """A prompt's place in a list: its answer, or its error."""

    index: int


class ResultList(TypedDict):
    """The answers to a list of prompts, in its order."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]

    results: list[ListItem]
    usage: Usage


class Tokens(TypedDict):
    """What the model would read."""

    tokens: list[int]
    count: int
    max_model_len: int


class Detokenized(TypedDict):
    """The text of token ids."""

    prompt: str


class Aborted(TypedDict):
    """How many prompts an abort ended; 0 when no such request runs."""

    request_id: str
    aborted: int


class Load(TypedDict):
    """Prompts running and waiting."""

    load: int


class StateAnswer(TypedDict):
    """loading, ready, draining or dead; and what it died of."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]

    state: str
    failure: str | None


class Info(TypedDict):
    """The model and its limits."""

    model: str
    fingerprint: str
    adapters: list[str]
    dtype: str
    dtype_reason: str
    max_model_len: int
    vocab_size: int
    chat_template: bool
    default_parameters: dict[str, Any]
    presets: dict[str, dict[str, Any]]
    max_prompts: int


class Versions(TypedDict):
    """Of the service and of its engine."""

    mergeline: str
    vllm: str


class AdapterAnswer(TypedDict):
    """An adapter that requests may name, and its directory."""

    name: str
    path: str


class AdapterList(TypedDict):
    """In the order in which they were loaded."""

    adapters: list[AdapterAnswer]


class Unloaded(TypedDict):
    """The name of an adapter that is served no more."""

    unloaded: str
