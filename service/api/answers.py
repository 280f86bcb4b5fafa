"""Answers of the HTTP contract: their members and types, as they stand in the OpenAPI document."""

from typing import Any, NotRequired

from typing_extensions import TypedDict

from service.errors import ItemFailure, closed


@closed
class Usage(TypedDict):
    """Tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    reasoning_tokens: NotRequired[int]


@closed
class Logprob(TypedDict):
    """Natural log of a token's probability."""

    token_id: int
    token: str
    logprob: float


class PositionLogprobs(Logprob):
    """The token at one position, and the likeliest ones there."""

    top_logprobs: list[Logprob]


@closed
class Output(TypedDict):
    """One of several texts for a prompt."""

    index: int
    generated_text: str
    finish_reason: str | None
    num_output_tokens_cf: int
    reasoning: NotRequired[str]
    logprobs: NotRequired[list[PositionLogprobs]]


@closed
class Result(TypedDict):
    """The answer to one prompt; `outputs` when `n` or the beams are more than one."""

    generated_text: str | None
    finish_reason: str | None
    usage: Usage
    request_id: str
    model: str
    error: ItemFailure | None
    num_output_tokens_cf: int
    reasoning: NotRequired[str]
    logprobs: NotRequired[list[PositionLogprobs]]
    outputs: NotRequired[list[Output]]


class ListItem(Result):
    """A prompt's place in a list: its answer, or its error."""

    index: int


@closed
class ResultList(TypedDict):
    """The answers to a list of prompts, in its order."""

    results: list[ListItem]
    usage: Usage


@closed
class Delta(TypedDict):
    """What is new in one output of a stream."""

    index: int
    text: str
    reasoning: NotRequired[str]


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


@closed
class StateAnswer(TypedDict):
    """loading, ready, draining or dead; and what it died of."""

    state: str
    failure: str | None


class Fingerprints(TypedDict):
    """What answers depend on, a digest each; adapters by name."""

    model: str
    parameters: str
    adapters: dict[str, str]


class Switch(TypedDict):
    """The template's arguments, as /v1 takes them in chat_template_kwargs."""

    on: dict[str, Any]
    off: dict[str, Any]


class Thoughts(TypedDict):
    """Of a model that thinks: how it is switched, and whether it does so by default."""

    switch: Switch | None
    default: bool
    marks: list[str]


class Quantization(TypedDict):
    """How quantised weights are stored; null where config.json does not say."""

    method: str
    scheme: str
    bits: int | None
    activation_bits: int | None


class Info(TypedDict):
    """The model and its limits; `fingerprint` is another when anything in `fingerprints` is."""

    model: str
    fingerprint: str
    fingerprints: Fingerprints
    adapters: list[str]
    dtype: str
    dtype_reason: str
    quantization: Quantization | None
    max_model_len: int
    vocab_size: int
    chat_template: bool
    thinking: Thoughts | None
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
