"""From a request's parameters to the fields of vLLM's SamplingParams, or to a beam search."""

from dataclasses import dataclass, replace
from typing import Any

from service.engine.grammars.size import schema_text
from service.errors import InvalidRequestError
from service.generation.chat import Chat
from service.parameters import MAX_LOGPROBS, Parameters, canonical

GREEDY_BELOW = 1e-5  # vLLM would clamp such a temperature to 0.01 and sample
DEFAULT_MAX_TOKENS = 512
DEFAULT_PARAMETERS = {"temperature": 0.0, "max_tokens": DEFAULT_MAX_TOKENS}

RENDERING = {"raw", "system", "history", "thinking"}
ROUTING = {"adapter", "preset", "priority", "timeout_s", "request_id"} | RENDERING
BEAMS = {"beam_width", "length_penalty"}
WITH_BEAMS = {"n", "max_tokens", "ignore_eos", "stop_token_ids", "skip_special_tokens"}


@dataclass(frozen=True)
class Plan:
    """What to generate for each prompt of one request.

    `sampling` holds SamplingParams fields but for max_tokens, which depends on the prompt:
    `max_tokens` is what the request set and must fit, else `default_max_tokens` is cut to
    what fits. `beam_width` above 1 means beam search.
    """

    sampling: dict[str, Any]
    max_tokens: int | None
    default_max_tokens: int
    beam_width: int = 1
    length_penalty: float = 1.0
    chat: Chat | None = None
    """None: prompts are sent verbatim."""

    def for_prompt(self, prompt_tokens: int, max_model_len: int) -> dict[str, Any]:
        """`sampling` with max_tokens, for a prompt of that many tokens.

        Raises InvalidRequestError when it does not fit.
        """
        room = _room(prompt_tokens, max_model_len)
        if self.max_tokens is not None and self.max_tokens > room:
            raise InvalidRequestError(
                f"max_tokens={self.max_tokens} does not fit: the prompt has {prompt_tokens} tokens "
                f"and the model holds {max_model_len}; set at most {room}",
                "parameters.max_tokens",
            )
        max_tokens = self.max_tokens or min(self.default_max_tokens, room)
        min_tokens = self.sampling.get("min_tokens", 0)
        if min_tokens > max_tokens:
            raise InvalidRequestError(
                f"min_tokens={min_tokens} is above max_tokens={max_tokens}; {room} tokens are left "
                "after the prompt",
                "parameters.min_tokens",
            )
        return {**self.sampling, "max_tokens": max_tokens}


def _room(prompt_tokens: int, max_model_len: int) -> int:
    if prompt_tokens >= max_model_len:
        raise InvalidRequestError(
            f"the prompt has {prompt_tokens} tokens; this model takes at most {max_model_len - 1} "
            "and one for the answer: shorten it",
            "prompt",
        )
    return max_model_len - prompt_tokens


def to_plan(
    parameters: Parameters, defaults: dict[str, Any], presets: dict[str, dict[str, Any]]
) -> Plan:
    """The request's parameters over its preset's, over the deployment's defaults.

    Raises InvalidRequestError naming the field.
    """
    chosen = _preset(parameters.preset, presets) | canonical(parameters)
    if parameters.do_sample and "temperature" not in chosen:
        chosen["temperature"] = defaults.get("temperature") or 1.0
    fields = _with_schema_text({**defaults, **chosen})
    default_max_tokens = defaults.get("max_tokens", DEFAULT_MAX_TOKENS)
    make = _beams if fields.get("beam_width", 1) > 1 else _sampled
    return replace(make(fields, chosen, default_max_tokens), chat=to_chat(fields, chosen))


def to_chat(fields: dict[str, Any], chosen: dict[str, Any]) -> Chat | None:
    """What stands around each prompt; None: it is sent verbatim.

    Raises InvalidRequestError where that does not go with what is `chosen` of the fields.
    """
    verbatim = fields.get("raw", False)
    given = chosen if verbatim else fields
    around = {name: given[name] for name in RENDERING - {"raw"} if name in given}
    if not verbatim:
        history = tuple((question, answer) for question, answer in around.pop("history", ()))
        return Chat(**around, history=history, opens_thought="structured_outputs" in fields)
    if around:
        name = min(around)
        raise InvalidRequestError(
            f"{name} does not go with raw, which sends the prompt verbatim", f"parameters.{name}"
        )
    return None


def _with_schema_text(fields: dict[str, Any]) -> dict[str, Any]:
    """A JSON schema is written once for all prompts of a list."""
    field = "structured_outputs"
    constraint = fields.get(field, {})
    if constraint.get("json") is None:
        return fields
    try:
        return {**fields, field: {**constraint, "json": schema_text(constraint["json"])}}
    except ValueError as error:
        raise InvalidRequestError(f"{field}: {error}", f"parameters.{field}") from error


def _sampled(fields: dict[str, Any], chosen: dict[str, Any], default_max_tokens: int) -> Plan:
    if chosen.get("length_penalty", 1.0) != 1.0:
        raise InvalidRequestError(
            "length_penalty needs beam search: set beam_width too", "parameters.length_penalty"
        )
    fields["temperature"] = _greedy_or(fields.get("temperature", 0.0))
    _check(fields)
    sampling = {k: v for k, v in fields.items() if k not in ROUTING | BEAMS | {"max_tokens"}}
    return Plan(sampling, chosen.get("max_tokens"), default_max_tokens)


def refuse_long_answer(plan: Plan, prompts: int, max_model_len: int, most: int) -> None:
    """Raise InvalidRequestError where what is written in one go has too many log-probabilities.

    `prompts`: whose answers are written together.
    """
    if "logprobs" not in plan.sampling:
        return
    each = plan.sampling.get("n", 1) * (plan.sampling["logprobs"] + 1)
    count = prompts * each * min(plan.max_tokens or plan.default_max_tokens, max_model_len)
    if count > most:
        raise InvalidRequestError(
            f"the answer may have {count} log-probabilities, at most {most} (max_answer_logprobs): "
            "ask for fewer at a token, set max_tokens, stream a list or send fewer prompts at once",
            "parameters.logprobs",
        )


def _preset(name: str | None, presets: dict[str, dict[str, Any]]) -> dict[str, Any]:
    if name is None:
        return {}
    if name not in presets:
        names = ", ".join(presets) or "none"
        raise InvalidRequestError(f"no preset {name!r} here (known: {names})", "parameters.preset")
    return presets[name]


def check_token_ids(sampling: dict[str, Any], vocab_size: int) -> None:
    """Raises InvalidRequestError for an id that the model does not have."""
    for name in ("stop_token_ids", "allowed_token_ids", "logit_bias"):
        beyond = [token_id for token_id in sampling.get(name, ()) if token_id >= vocab_size]
        if beyond:
            raise InvalidRequestError(
                f"{name}: {beyond[0]} is outside the vocabulary (0 to {vocab_size - 1})",
                f"parameters.{name}",
            )


def _beams(fields: dict[str, Any], chosen: dict[str, Any], default_max_tokens: int) -> Plan:
    """Beam search. A default of the deployment that it cannot use does not hinder it."""
    _refuse_sampling(chosen)
    width = fields["beam_width"]
    sampling = {name: fields[name] for name in WITH_BEAMS - {"max_tokens"} if name in fields}
    if sampling.setdefault("n", width) > width:
        raise InvalidRequestError(f"n is above beam_width={width}", "parameters.n")
    ends = 2 + len(sampling.get("stop_token_ids", ()))
    if width * ends > MAX_LOGPROBS:
        raise InvalidRequestError(
            f"beam_width={width} with {ends - 1} token ids that end a beam is too wide: at most "
            f"{MAX_LOGPROBS // ends}",
            "parameters.beam_width",
        )
    penalty = fields.get("length_penalty", 1.0)
    return Plan(sampling, chosen.get("max_tokens"), default_max_tokens, width, penalty)


def _refuse_sampling(chosen: dict[str, Any]) -> None:
    for name in chosen.keys() - WITH_BEAMS - BEAMS - ROUTING:
        neutral = 0.0 if name == "temperature" else Parameters.model_fields[name].default
        if chosen[name] != neutral:
            raise InvalidRequestError(
                f"{name} does not go with beam search (which takes "
                f"{', '.join(sorted(WITH_BEAMS | BEAMS))})",
                f"parameters.{name}",
            )


def _check(fields: dict[str, Any]) -> None:
    if fields["temperature"] == 0 and fields.get("n", 1) > 1:
        raise InvalidRequestError(
            "n > 1 needs sampling: greedy outputs would all be equal; set temperature",
            "parameters.n",
        )
    if fields.get("min_tokens", 0) > fields.get("max_tokens", DEFAULT_MAX_TOKENS):
        raise InvalidRequestError("min_tokens is above max_tokens", "parameters.min_tokens")


def _greedy_or(temperature: float) -> float:
    return temperature if temperature >= GREEDY_BELOW else 0.0
