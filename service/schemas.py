"""Request bodies of the HTTP contract. Unknown fields and values out of range are refused."""

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator


def _encodable(text: str) -> str:
    """JSON can spell half a character ("\\ud800"), which no tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"character {error.start} is a lone surrogate, not text") from error
    return text


TokenId = Annotated[int, Field(ge=0, lt=2**31)]
Text = Annotated[str, AfterValidator(_encodable)]
NonEmpty = Annotated[Text, Field(min_length=1)]


class Parameters(BaseModel):
    """Sampling parameters under vLLM's names, aliases that clients send, and how to render."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    n: int = Field(1, ge=1, le=128, description="outputs for each prompt")
    temperature: float | None = Field(None, ge=0, le=2, description="below 1e-5: greedy")
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=-1, lt=2**31, description="0 or -1: all tokens")
    min_p: float = Field(0.0, ge=0, le=1)
    seed: int | None = Field(None, ge=0, lt=2**63)
    max_tokens: int | None = Field(None, ge=1, lt=2**31)
    min_tokens: int = Field(0, ge=0, lt=2**31)
    stop: NonEmpty | Annotated[list[NonEmpty], Field(max_length=64)] | None = None
    stop_token_ids: list[TokenId] | None = Field(None, max_length=1024)
    bad_words: list[NonEmpty] | None = Field(None, max_length=1024)
    ignore_eos: bool = False
    presence_penalty: float = Field(0.0, ge=-2, le=2)
    frequency_penalty: float = Field(0.0, ge=-2, le=2)
    repetition_penalty: float = Field(1.0, gt=0, le=100)
    logprobs: int | None = Field(None, ge=0, le=20, description="likeliest tokens a position")
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = Field(
        None, description="token id -> value added to its logit"
    )
    allowed_token_ids: list[TokenId] | None = Field(None, min_length=1)
    skip_special_tokens: bool = True
    include_stop_str_in_output: bool = False

    max_new_tokens: int | None = Field(None, ge=1, lt=2**31, description="alias of max_tokens")
    do_sample: bool | None = Field(None, description="false: greedy; true: temperature 1 if unset")

    adapter: NonEmpty | None = Field(None, description="name of an adapter served beside it")
    raw: bool = Field(False, description="send the prompt verbatim, without the chat template")

    @model_validator(mode="after")
    def _aliases_agree(self) -> "Parameters":
        if self.max_tokens is not None and self.max_new_tokens is not None:
            raise ValueError("give max_tokens or its alias max_new_tokens, not both")
        return self


class GenerateRequest(BaseModel):
    """Body of POST /generate."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={
            "examples": [{"prompt": "感冒了怎么办？\n答：", "parameters": {"max_tokens": 64}}]
        },
    )

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
            raise ValueError("give prompt or its alias input, not both")
        return {"prompt" if name == "input" else name: value for name, value in body.items()}
