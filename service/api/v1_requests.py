"""Bodies under /v1, read before vLLM reads them: what runs for them, and what is refused."""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.errors import InvalidRequestError, first_problem
from service.parameters import MOST_OUTPUTS, MOST_STOPS, RequestId, refuse_overtaking
from service.request_record import RequestRecord

COMPLETIONS, BATCH = "/v1/completions", "/v1/chat/completions/batch"
LIST_OF_PROMPTS = {COMPLETIONS: "prompt", BATCH: "messages"}
SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
NOT_TAKEN = {
    "background": "a background response would outlive its request",
    "chat_template": "the model's own template is used",
    "ec_transfer_params": "there is one engine",
    "kv_transfer_params": "there is one engine",
    "logprob_token_ids": "it would change the log-probabilities of others; use logprobs",
    "media_io_kwargs": "the models here read text alone",
    "mm_processor_kwargs": "the models here read text alone",
    "previous_input_messages": "send all messages in input",
    "prompt_embeds": "send text or token ids",
    "tokenize": "the template's text is always turned into tokens",
    "vllm_xargs": "no extension takes them",
}
"""Fields of vLLM's that reach into its inside, and what to know instead."""
TEMPLATE_ARGUMENTS = "chat_template_kwargs"
RENDERED = ("messages", "input", "system", "instructions", "tools", "documents", TEMPLATE_ARGUMENTS)
"""Fields whose text the chat template writes into the prompt."""


class V1Fields(BaseModel):
    """The fields that decide what a request costs; vLLM checks all others."""

    model_config = ConfigDict(extra="allow", strict=True)

    model: str | None = None
    n: int | None = Field(None, ge=1, le=MOST_OUTPUTS)
    best_of: int | None = Field(None, ge=1, le=MOST_OUTPUTS)
    stop: str | Annotated[list[str], Field(max_length=MOST_STOPS)] | None = None
    request_id: RequestId | None = None
    priority: int | None = Field(None, ge=-(2**31), lt=2**31)

    @property
    def each(self) -> int:
        """Sequences for each prompt."""
        return max(self.n or 1, self.best_of or 1)


@dataclass(frozen=True)
class V1Work:
    """What a request makes the engine do."""

    model: str | None
    prompts: int = 1
    each: int = 1
    """Sequences for each prompt."""
    rendered: list[tuple[str, bool]] = field(default_factory=list)
    """Text that the template renders; True: a message of the model."""


def read_v1(path: str, content: bytes, record: RequestRecord, max_prompts: int) -> V1Work:
    """What the body of a POST asks for. Raises InvalidRequestError, which names the field."""
    body = _parsed(content)
    _refuse_fields(body)
    _refuse_large_numbers(body)
    try:
        fields = V1Fields.model_validate(body)
    except ValidationError as error:
        raise first_problem(error.errors()) from error
    refuse_overtaking(record, fields.priority, "priority")
    prompts = _count_prompts(path, body)
    if prompts > max_prompts:
        raise InvalidRequestError(
            f"{prompts} prompts in one request, at most {max_prompts}: split the list",
            LIST_OF_PROMPTS[path],
        )
    rendered = [] if path == COMPLETIONS else list(_rendered(body))
    return V1Work(fields.model, prompts, fields.each, rendered)


def _parsed(content: bytes) -> dict[str, Any]:
    try:
        body = json.loads(content, parse_constant=_refuse_number, parse_float=_finite)
        if SURROGATE.search(content):
            json.dumps(body, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise InvalidRequestError(
            'the body holds a lone surrogate, half a character ("\\ud800"), which is not text',
            "body",
        ) from error
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError(f"the body is not JSON: {error}", "body") from error
    if not isinstance(body, dict):
        raise InvalidRequestError("the body has to be a JSON object", "body")
    return body


def _finite(number: str) -> float:
    """JSON can spell 1e400, which Python reads as infinity."""
    value = float(number)
    return value if math.isfinite(value) else _refuse_number(number)


def _refuse_number(number: str) -> float:
    raise ValueError(f"{number[:20]} is no number that can be computed with")


def _refuse_fields(body: dict[str, Any]) -> None:
    arguments = body.get(TEMPLATE_ARGUMENTS)
    given = body | (arguments if isinstance(arguments, dict) else {})
    for name in NOT_TAKEN.keys() & given.keys():
        if given[name] not in (None, False):
            raise InvalidRequestError(f"{name} is not taken: {NOT_TAKEN[name]}", name)


def _refuse_large_numbers(body: dict[str, Any]) -> None:
    for name, value in body.items():
        if isinstance(value, int) and value.bit_length() > 63:
            raise InvalidRequestError(f"{name} is beyond 64 bits", name)


def _count_prompts(path: str, body: dict[str, Any]) -> int:
    many = body.get(LIST_OF_PROMPTS.get(path, ""))
    if not isinstance(many, list) or not many:
        return 1
    return 1 if isinstance(many[0], int) else len(many)  # one prompt's token ids, or prompts


def _rendered(body: dict[str, Any]) -> Iterator[tuple[str, bool]]:
    """All text that the chat template may write into the prompt, names of members included."""
    pending: list[tuple[Any, bool]] = [(body.get(name), False) for name in RENDERED]
    while pending:
        value, by_model = pending.pop()
        if isinstance(value, str):
            yield value, by_model
        else:
            by_model = by_model or _is_by_model(value)
            pending += [(each, by_model) for each in _members(value)]


def _is_by_model(value: Any) -> bool:
    return isinstance(value, dict) and value.get("role") == "assistant"


def _members(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [*value, *value.values()]
    return value if isinstance(value, list) else []
