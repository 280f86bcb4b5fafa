"""The parameters of a request. Unknown fields and values out of range are refused."""

import re
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    ValidationError,
    model_validator,
)
from pydantic_core import CoreSchema

from service.errors import InvalidRequestError, first_problem
from service.parameters_schema import TOGETHER, VERBATIM, allow_null, document_one_kind
from service.request_record import RequestRecord

TOKEN_ID = re.compile("[0-9]{1,10}")
REQUEST_ID = "[A-Za-z0-9._:-]{1,128}"
ALIASES = {"max_new_tokens": "max_tokens", "num_beams": "beam_width", "best_of": "beam_width"}
MOST_OUTPUTS = 128
MOST_LOGPROBS = 20
MOST_STOPS = 64
MOST_ROUNDS = 256
MAX_LOGPROBS = 64
"""Most alternatives a position that the engine returns; beam search needs them."""
MOST_BIASED_TOKENS = 1024
"""Entries of logit_bias or allowed_token_ids that vLLM's model runner on a GPU has room for."""
MOST_BAD_CHARACTERS = 8192
"""Of all bad_words together."""
MOST_MIN_TOKENS_ENDS = 64
"""Token ids in stop_token_ids beside min_tokens: it has room for 128, the model's own included."""


def _encodable(text: str) -> str:
    r"""Refuse half a character, which JSON can spell ("\ud800") and no tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"character {error.start} is a lone surrogate, not text") from error
    return text


TokenId = Annotated[int, Field(ge=0, lt=2**31)]
Text = Annotated[str, AfterValidator(_encodable)]
NonEmpty = Annotated[Text, Field(min_length=1)]
Round = Annotated[list[Text], Field(min_length=2, max_length=2)]
RequestId = Annotated[str, Field(pattern=f"^{REQUEST_ID}$")]


class Fields(BaseModel):
    """A JSON object whose unknown members are refused; null means "not given", for every default.

    Many clients write null for the fields that their caller left out.
    """

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _null_is_not_given(cls, fields: Any) -> Any:
        if not isinstance(fields, dict):
            return fields
        optional = cls._optional()
        return {k: v for k, v in fields.items() if v is not None or k not in optional}

    @classmethod
    def _optional(cls) -> set[str]:
        return {name for name, field in cls.model_fields.items() if not field.is_required()}

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """Says so in the OpenAPI document."""
        schema = handler.resolve_ref_schema(handler(core_schema))
        allow_null(schema)
        return schema


class StructuredOutputs(BaseModel):
    """What the text has to be: exactly one of four kinds of constraint."""

    model_config = ConfigDict(
        extra="forbid", strict=True, allow_inf_nan=False, json_schema_extra=document_one_kind
    )

    json_schema: dict[str, Any] | None = Field(None, alias="json", description="a JSON schema")
    regex: Annotated[NonEmpty, Field(max_length=4096)] | None = None
    choice: list[NonEmpty] | None = Field(None, min_length=1, max_length=1024)
    grammar: Annotated[NonEmpty, Field(max_length=2**16)] | None = Field(
        None, description="a context-free grammar in EBNF"
    )

    @model_validator(mode="after")
    def _one_kind(self) -> "StructuredOutputs":
        if _count_set(*(getattr(self, name) for name in type(self).model_fields)) != 1:
            raise ValueError("set exactly one of json, regex, choice, grammar")
        return self


class AroundPrompt(Fields):
    """How a prompt is rendered."""

    model_config = ConfigDict(json_schema_extra=VERBATIM)

    raw: bool = Field(False, description="send the prompt verbatim, without the chat template")
    system: NonEmpty | None = Field(None, description="text before the first question")
    history: list[Round] | None = Field(
        None, max_length=MOST_ROUNDS, description="earlier rounds: [question, answer]"
    )
    thinking: bool | None = Field(
        None, description="whether the model thinks first; unset: as it was trained"
    )


class Parameters(AroundPrompt):
    """Sampling parameters under vLLM's names, aliases that clients send, and how to render."""

    model_config = ConfigDict(json_schema_extra=TOGETHER)

    n: int = Field(1, ge=1, le=MOST_OUTPUTS, description="outputs for each prompt")
    temperature: float | None = Field(None, ge=0, le=2, description="below 1e-5: greedy")
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=-1, lt=2**31, description="0 or -1: all tokens")
    min_p: float = Field(0.0, ge=0, le=1)
    seed: int | None = Field(None, ge=0, lt=2**63)
    max_tokens: int | None = Field(None, ge=1, lt=2**31)
    min_tokens: int = Field(0, ge=0, lt=2**31)
    stop: NonEmpty | Annotated[list[NonEmpty], Field(max_length=MOST_STOPS)] | None = None
    stop_token_ids: list[TokenId] | None = Field(None, max_length=1024)
    bad_words: list[NonEmpty] | None = Field(None, max_length=1024)
    ignore_eos: bool = False
    presence_penalty: float = Field(0.0, ge=-2, le=2)
    frequency_penalty: float = Field(0.0, ge=-2, le=2)
    repetition_penalty: float = Field(1.0, gt=0, le=100)
    logprobs: int | None = Field(
        None, ge=0, le=MOST_LOGPROBS, description="likeliest tokens a position"
    )
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = Field(
        None,
        description="token id -> value added to its logit",
        max_length=MOST_BIASED_TOKENS,
        json_schema_extra={"propertyNames": {"pattern": "^[0-9]{1,10}$"}},
    )
    allowed_token_ids: list[TokenId] | None = Field(
        None, min_length=1, max_length=MOST_BIASED_TOKENS
    )
    skip_special_tokens: bool = True
    include_stop_str_in_output: bool = False
    structured_outputs: StructuredOutputs | None = None

    beam_width: int | None = Field(None, ge=1, le=32, description="1: no beam search")
    length_penalty: float = Field(
        1.0, ge=-10, le=10, description="beams score log-probability / tokens ** length_penalty"
    )

    max_new_tokens: int | None = Field(None, ge=1, lt=2**31, description="alias of max_tokens")
    do_sample: bool | None = Field(None, description="false: greedy; true: temperature 1 if unset")
    num_beams: int | None = Field(None, ge=1, le=32, description="alias of beam_width")
    use_beam_search: bool | None = Field(None, description="true: best_of beams")
    best_of: int | None = Field(None, ge=1, le=32, description="beams of use_beam_search")

    preset: NonEmpty | None = Field(
        None, description="name of parameters kept by the service; those of the request win"
    )
    priority: int = Field(0, ge=-(2**31), lt=2**31, description="lower ones are served first")
    timeout_s: float | None = Field(None, gt=0, le=86400, description="504 after that many seconds")
    request_id: RequestId | None = Field(None, description="wins over the X-Request-Id header")
    adapter: NonEmpty | None = Field(None, description="name of an adapter served beside it")

    @model_validator(mode="after")
    def _aliases_agree(self) -> "Parameters":
        widths = _count_set(self.beam_width, self.num_beams, self.best_of)
        several, beams = (self.best_of or 1) > 1, self.use_beam_search is True
        problems = {
            "set max_tokens or its alias max_new_tokens, not both": _count_set(
                self.max_tokens, self.max_new_tokens
            )
            > 1,
            "set one of beam_width, num_beams, best_of": widths > 1,
            "best_of means beams: it needs use_beam_search true": several > beams,
            "use_beam_search needs best_of: how many beams": beams > (widths > 0),
        }
        for message, found in problems.items():
            if found:
                raise ValueError(message)
        return self


def _count_set(*values: object) -> int:
    return sum(value is not None for value in values)


def canonical(parameters: Parameters) -> dict[str, Any]:
    """The fields that are set, aliases under the names they stand for."""
    given = parameters.model_dump(exclude_unset=True, exclude_none=True, by_alias=True)
    fields = {ALIASES.get(name, name): value for name, value in given.items()}
    if fields.pop("use_beam_search", None) is False:
        fields.pop("beam_width", None)
    if fields.pop("do_sample", None) is False:
        fields["temperature"] = 0.0
    if "logit_bias" in fields:
        fields["logit_bias"] = _logit_bias(fields["logit_bias"])
    return fields


def refuse_overtaking(record: RequestRecord, priority: Any, param: str) -> None:
    """Where several API keys exist, none may go before the others. Raises InvalidRequestError."""
    if record.owner and isinstance(priority, int) and priority < 0:
        raise InvalidRequestError(
            f"priority={priority}: with several API keys it may be 0, or more to wait for others",
            param,
        )


def checked(fields: dict[str, Any]) -> dict[str, Any]:
    """A deployment's parameters as `canonical` returns them. Raises ValueError with the field."""
    try:
        return canonical(Parameters.model_validate(fields))
    except ValidationError as error:
        raise ValueError(first_problem(error.errors()).message) from error
    except InvalidRequestError as error:
        raise ValueError(error.message) from error


def _logit_bias(bias: dict[str, float]) -> dict[int, float]:
    for token_id in bias:
        if not TOKEN_ID.fullmatch(token_id):
            raise InvalidRequestError(
                f"logit_bias: {token_id!r} is not a token id", "parameters.logit_bias"
            )
    return {int(token_id): value for token_id, value in bias.items()}
