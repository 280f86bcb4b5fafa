"""From a request's parameters to the fields of vLLM's SamplingParams."""

from typing import Any

from service.errors import InvalidRequestError
from service.schemas import Parameters
from service.settings import Settings

GREEDY_BELOW = 1e-5  # vLLM would clamp such a temperature to 0.01 and sample
NOT_SAMPLING = {"max_new_tokens", "do_sample", "adapter", "raw"}


def to_sampling(parameters: Parameters, settings: Settings, vocab_size: int) -> dict[str, Any]:
    """SamplingParams fields, with the deployment's defaults where the request is silent.

    `max_tokens` stays out when the request does not give it: it depends on each prompt.
    Raises InvalidRequestError naming the field.
    """
    fields = parameters.model_dump(exclude_none=True, exclude=NOT_SAMPLING)
    if parameters.max_new_tokens is not None:
        fields["max_tokens"] = parameters.max_new_tokens
    fields["temperature"] = _temperature(parameters, settings)
    if fields["temperature"] == 0 and parameters.n > 1:
        raise InvalidRequestError(
            "n > 1 needs sampling: greedy outputs would all be equal; set temperature",
            "parameters.n",
        )
    if parameters.min_tokens > fields.get("max_tokens", settings.default_max_tokens):
        raise InvalidRequestError("min_tokens is above max_tokens", "parameters.min_tokens")
    if parameters.logit_bias is not None:
        fields["logit_bias"] = _logit_bias(parameters.logit_bias)
    _check_token_ids(fields, vocab_size)
    return fields


def with_max_tokens(
    sampling: dict[str, Any], prompt_tokens: int, max_model_len: int, default: int
) -> dict[str, Any]:
    """`sampling` for a prompt of that many tokens.

    The default is cut to what fits; a number that the request asked for must fit as it is.
    """
    room = max_model_len - prompt_tokens
    if room < 1:
        raise InvalidRequestError(
            f"the prompt has {prompt_tokens} tokens; this model takes at most "
            f"{max_model_len - 1} and one for the answer: shorten it",
            "prompt",
        )
    asked = sampling.get("max_tokens")
    if asked is not None and asked > room:
        raise InvalidRequestError(
            f"max_tokens={asked} does not fit: the prompt has {prompt_tokens} tokens and the model "
            f"holds {max_model_len}; ask for at most {room}",
            "parameters.max_tokens",
        )
    max_tokens = asked or min(default, room)
    if sampling["min_tokens"] > max_tokens:
        raise InvalidRequestError(
            f"min_tokens={sampling['min_tokens']} does not fit: {room} tokens are left after the "
            "prompt",
            "parameters.min_tokens",
        )
    return {**sampling, "max_tokens": max_tokens}


def _temperature(parameters: Parameters, settings: Settings) -> float:
    if parameters.do_sample is False:
        return 0.0
    if parameters.temperature is not None:
        temperature = parameters.temperature
    elif parameters.do_sample:
        temperature = settings.default_temperature or 1.0
    else:
        temperature = settings.default_temperature
    return temperature if temperature >= GREEDY_BELOW else 0.0


def _logit_bias(bias: dict[str, float]) -> dict[int, float]:
    for token_id in bias:
        if not (token_id.isascii() and token_id.isdigit()):
            raise InvalidRequestError(
                f"logit_bias: {token_id!r} is not a token id", "parameters.logit_bias"
            )
    return {int(token_id): value for token_id, value in bias.items()}


def _check_token_ids(fields: dict[str, Any], vocab_size: int) -> None:
    for name in ("stop_token_ids", "allowed_token_ids", "logit_bias"):
        beyond = [token_id for token_id in fields.get(name, ()) if token_id >= vocab_size]
        if beyond:
            raise InvalidRequestError(
                f"{name}: {beyond[0]} is outside the vocabulary (0 to {vocab_size - 1})",
                f"parameters.{name}",
            )
