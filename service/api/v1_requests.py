"""Bodies under /v1, read before vLLM reads them: what runs for them, and what is refused."""

import json
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import accumulate, islice
from typing import Annotated, Any, NoReturn

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from service.errors import InvalidRequestError, first_problem
from service.generation.control_tokens import TRUSTED
from service.parameters import MOST_LOGPROBS, MOST_OUTPUTS, MOST_STOPS, RequestId, refuse_overtaking
from service.request_record import RequestRecord

COMPLETIONS, BATCH = "/v1/completions", "/v1/chat/completions/batch"
RESPONSES = "/v1/responses"
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
    "repetition_detection": "looking for repetitions holds up all others",
    "prompt_embeds": "send text or token ids",
    "tokenize": "the template's text is always turned into tokens",
    "vllm_xargs": "no extension takes them",
}
"""Fields of vLLM's that reach into its inside, and what to know instead."""
TEMPLATE_ARGUMENTS = "chat_template_kwargs"
RENDERED = ("messages", "input", "documents", TEMPLATE_ARGUMENTS)
TEXTS = {"prompt", "messages", "input", "documents", "system", "instructions"}
MOST_REPEATED, ALWAYS_REPEATED = 2**18, 512
MOST_OBJECTS = {"messages": 2048, "tools": 4096, "input": 512}
"""By how long vLLM takes for each on the event loop: to check it, and to render it."""
MOST_CONVERSATIONS = 128
BY_DEVELOPER = ("system", "instructions", "tools")
"""Fields whose text the chat template writes into the prompt; these may speak of marks."""


def _refuse_tags(kind: str) -> str:
    """Structural tags are compiled while vLLM validates the body, which holds up all others."""
    if kind == "structural_tag":
        raise ValueError("structural_tag is not taken: use json_schema, or a grammar")
    return kind


class _Format(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)

    type: Annotated[str, AfterValidator(_refuse_tags)] = "text"


class _Constraint(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)

    structural_tag: None = None


class V1Fields(BaseModel):
    """The fields that decide what a request costs; vLLM checks all others."""

    model_config = ConfigDict(extra="allow", strict=True)

    model: str | None = None
    n: int | None = Field(None, ge=1, le=MOST_OUTPUTS)
    best_of: int | None = Field(None, ge=1, le=MOST_OUTPUTS)
    response_format: _Format | None = None
    structured_outputs: _Constraint | None = None
    use_beam_search: bool | None = None
    logprobs: bool | Annotated[int, Field(ge=0, le=MOST_LOGPROBS)] | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MOST_LOGPROBS)
    prompt_logprobs: int | None = Field(None, ge=0, le=MOST_LOGPROBS)
    stop: str | Annotated[list[str], Field(max_length=MOST_STOPS)] | None = None
    request_id: RequestId | None = None
    priority: int | None = Field(None, ge=-(2**31), lt=2**31)
    include_reasoning: bool | None = None

    @property
    def writes_logprobs(self) -> bool:
        """Whether the answer has some of its tokens."""
        return self.logprobs is not None and self.logprobs is not False

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
    """Text that the template renders; True: by the model or a developer."""
    items: list[Any] = field(default_factory=list)
    """Those in the `input` of /v1/responses."""


def read_v1(path: str, content: bytes, record: RequestRecord, max_prompts: int) -> V1Work:
    """What the body of a POST asks for. Raises InvalidRequestError, which names the field."""
    body = _parsed(content)
    _refuse_fields(body)
    fields = _fields(body)
    refuse_overtaking(record, fields.priority, "priority")
    prompts = _count_prompts(path, body)
    _refuse_logprobs(fields)
    _refuse_hidden_thoughts(fields)
    _refuse_many_prompts(path, prompts, max_prompts)
    _refuse_repeated(path, body, prompts, len(content))
    for name, most in MOST_OBJECTS.items():
        _refuse_many(name, body.get(name), most)
    rendered = [] if path == COMPLETIONS else list(_rendered(body))
    return V1Work(fields.model, prompts, fields.each, rendered, _items(path, body))


def _fields(body: dict[str, Any]) -> V1Fields:
    try:
        return V1Fields.model_validate(body)
    except ValidationError as error:
        raise first_problem(error.errors()) from error


def _refuse_logprobs(fields: V1Fields) -> None:
    """Where vLLM would write more of them than are counted."""
    if fields.each > 1 and fields.prompt_logprobs is not None:
        raise InvalidRequestError("prompt_logprobs goes with n=1 alone", "prompt_logprobs")
    if fields.use_beam_search and fields.writes_logprobs:
        raise InvalidRequestError("logprobs does not go with use_beam_search", "logprobs")


def _refuse_hidden_thoughts(fields: V1Fields) -> None:
    """VLLM would force the constraint into the thought, and leave it out with it."""
    constrained = fields.response_format or fields.structured_outputs
    if fields.include_reasoning is False and constrained:
        raise InvalidRequestError(
            "include_reasoning: false does not go with response_format or structured_outputs: take"
            " the thought, and leave it unread",
            "include_reasoning",
        )


def _items(path: str, body: dict[str, Any]) -> list[Any]:
    items = body.get("input")
    return items if path == RESPONSES and isinstance(items, list) else []


def _parsed(content: bytes) -> dict[str, Any]:
    try:
        text = content.decode("utf-8-sig")  # json.loads would take half a character, and UTF-16
        body = json.loads(
            text, parse_constant=_refuse_number, parse_float=_finite, parse_int=_of_64_bits
        )
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
    if not math.isfinite(value):
        _refuse_number(number)
    return value


def _of_64_bits(number: str) -> int:
    value = int(number)
    if value.bit_length() > 63:
        _refuse_number(number)
    return value


def _refuse_number(number: str) -> NoReturn:
    raise ValueError(f"{number[:20]} is no number that can be computed with")


def _refuse_fields(body: dict[str, Any]) -> None:
    arguments = body.get(TEMPLATE_ARGUMENTS)
    given = body | (arguments if isinstance(arguments, dict) else {})
    for name in NOT_TAKEN.keys() & given.keys():
        if given[name] not in (None, False):
            raise InvalidRequestError(f"{name} is not taken: {NOT_TAKEN[name]}", name)


def _count_prompts(path: str, body: dict[str, Any]) -> int:
    many = body.get(LIST_OF_PROMPTS.get(path, ""))
    if not isinstance(many, list) or not many:
        return 1
    return 1 if isinstance(many[0], int) else len(many)  # one prompt's token ids, or prompts


def _refuse_many_prompts(path: str, prompts: int, max_prompts: int) -> None:
    most = min(max_prompts, MOST_CONVERSATIONS) if path == BATCH else max_prompts
    if prompts > most:
        raise InvalidRequestError(
            f"{prompts} prompts in one request, at most {most}: split the list",
            LIST_OF_PROMPTS[path],
        )


def _refuse_many(name: str, value: Any, most: int) -> None:
    objects = (each for each in _nested([value]) if isinstance(each, dict))
    if next(islice(objects, most, None), None) is not None:
        raise InvalidRequestError(f"{name} has more than {most} objects: send fewer", name)


def _refuse_repeated(path: str, body: dict[str, Any], prompts: int, size: int) -> None:
    """All but the prompts is checked and copied for each of them, by vLLM on the event loop."""
    most = most_repeated(prompts)
    if size <= most:
        return
    once = TEXTS if prompts == 1 else {LIST_OF_PROMPTS[path]}
    repeated = _nested(value for name, value in body.items() if name not in once)
    if any(total > most for total in accumulate(map(_size, repeated))):
        raise InvalidRequestError(
            f"the fields beside the prompts have more than {most} characters and values, the most "
            f"for as many prompts as here ({prompts}): make a schema or a list in them shorter, or "
            "send fewer prompts at once",
            "body",
        )


def most_repeated(prompts: int) -> int:
    """Characters at most of what is dealt with anew for each of so many prompts."""
    return max(MOST_REPEATED // prompts, ALWAYS_REPEATED)


def _nested(values: Iterable[Any]) -> Iterator[Any]:
    """They, and all that is in them."""
    pending = list(values)
    while pending:
        value = pending.pop()
        yield value
        pending += _inner(value)


def _inner(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [*value, *value.values()]
    return value if isinstance(value, list) else []


def _size(value: Any) -> int:
    return len(value) if isinstance(value, str) else 1


def _rendered(body: dict[str, Any]) -> Iterator[tuple[str, bool]]:
    """All text that the chat template may write into the prompt, names of members included."""
    pending = [(body.get(name), name in BY_DEVELOPER) for name in (*RENDERED, *BY_DEVELOPER)]
    while pending:
        value, trusted = pending.pop()
        if isinstance(value, str):
            yield value, trusted
        else:
            trusted = trusted or _is_trusted(value)
            pending += [(each, trusted) for each in _members(value)]


def _is_trusted(value: Any) -> bool:
    return isinstance(value, dict) and value.get("role") in TRUSTED


def _members(value: Any) -> list[Any]:
    arguments = [_arguments(value)] if isinstance(value, dict) else []
    return _inner(value) + arguments


def _arguments(call: dict[str, Any]) -> Any:
    """Of a tool call: JSON in a text, which templates write without its escapes."""
    try:
        return json.loads(call.get("arguments", ""))
    except (ValueError, TypeError, RecursionError):
        return None
