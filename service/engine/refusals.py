"""Parameters that the engine would take, and then answer wrongly or die of: refused on each route.

The limits are those of vLLM's model runner on a GPU, whose worker raises beyond them, which ends
the engine; they hold everywhere, so that a request means the same on every machine.
"""

from typing import Any

from vllm.exceptions import VLLMValidationError
from vllm.sampling_params import RequestOutputKind

from service.engine.protocol import Allowance
from service.machine.placement import Placement
from service.parameters import MOST_BAD_CHARACTERS, MOST_BIASED_TOKENS, MOST_MIN_TOKENS_ENDS

NOTHING_LEFT = "together they may allow no text at all; say it all in one of them"
AFTER_THE_END = "the end token ends what is followed, and any text may come after it"
CONTRADICTIONS = {
    ("allowed_token_ids", "structured_outputs"): NOTHING_LEFT,
    ("allowed_token_ids", "bad_words"): NOTHING_LEFT,
    ("bad_words", "structured_outputs"): NOTHING_LEFT,
    ("ignore_eos", "structured_outputs"): AFTER_THE_END,
    ("ignore_eos", "bad_words"): AFTER_THE_END,
}


class RefusedError(VLLMValidationError):
    """A request that is refused; `parameter` names the field. /v1 answers it with 400."""

    def __init__(self, message: str, parameter: str | None = None) -> None:
        super().__init__(message, parameter=parameter)

    def __str__(self) -> str:
        return str(self.args[0])


def refuse_unservable(params: Any, placement: Placement, ends: frozenset[int]) -> None:
    """Raise RefusedError for vLLM's SamplingParams that no engine of ours can follow.

    `ends` are the model's own end tokens.
    """
    _refuse_too_many(params)
    _refuse_contradictions(params, ends)
    if params.prompt_logprobs is not None and placement != Placement():
        raise RefusedError(
            "this model computes a prompt together with a trained prefix, or in both directions: "
            "its tokens have no log-probabilities",
            "prompt_logprobs",
        )


def spend(allowance: Allowance, params: Any, prompt_tokens: int, room: int) -> None:
    """Count the log-probabilities that the answer to one more prompt may hold.

    An answer that may fill the `room` left of the context, as where no length is set, is cut.
    Raises RefusedError beyond the allowance.
    """
    of_prompt = prompt_tokens * _candidates(params.prompt_logprobs)
    _take(allowance, of_prompt, "prompt_logprobs")
    if params.logprobs is None or _as_they_come(allowance, params):
        return
    each = params.n * _candidates(params.logprobs)
    if params.max_tokens == room:
        _cut(params, (allowance.most // allowance.prompts - of_prompt) // each)
    _take(allowance, each * params.max_tokens, "logprobs")


def _candidates(logprobs: int | None) -> int:
    """At one token: itself and the likeliest."""
    return 0 if logprobs is None else logprobs + 1


def _as_they_come(allowance: Allowance, params: Any) -> bool:
    """Whether each token's are written with it. A step of vLLM's beam search writes none."""
    streamed = params.output_kind == RequestOutputKind.DELTA and not allowance.in_streams
    return streamed or not params.detokenize


def _cut(params: Any, tokens: int) -> None:
    params.max_tokens = max(1, min(params.max_tokens, tokens))
    params.min_tokens = min(params.min_tokens, params.max_tokens)


def _take(allowance: Allowance, count: int, name: str) -> None:
    allowance.spent += count
    if allowance.spent > allowance.most:
        raise RefusedError(
            f"{name}: the answer may have {allowance.spent} log-probabilities, at most "
            f"{allowance.most} (max_answer_logprobs): ask for fewer at a token, set max_tokens, "
            "send fewer prompts at once, or stream",
            name,
        )


def _refuse_too_many(params: Any) -> None:
    ends = params.stop_token_ids if params.min_tokens else ()
    counts = [
        ("logit_bias", "entries", _size(params.logit_bias), MOST_BIASED_TOKENS),
        ("allowed_token_ids", "entries", _size(params.allowed_token_ids), MOST_BIASED_TOKENS),
        ("stop_token_ids", "entries beside min_tokens", _size(ends), MOST_MIN_TOKENS_ENDS),
        ("bad_words", "characters", _size("".join(params.bad_words or ())), MOST_BAD_CHARACTERS),
    ]
    for name, what, count, most in counts:
        if count > most:
            raise RefusedError(
                f"{name} has {count} {what}, at most {most}: leave out those that matter least",
                name,
            )


def _size(value: Any) -> int:
    return len(value or ())


def _refuse_contradictions(params: Any, ends: frozenset[int]) -> None:
    """What the engine would take, and then choose any token."""
    for (name, other), reason in CONTRADICTIONS.items():
        if getattr(params, name) and getattr(params, other):
            raise RefusedError(f"{name} does not go with {other}: {reason}", name)
    if params.min_tokens and _allows_ends_alone(params, ends):
        raise RefusedError(
            "allowed_token_ids holds ends alone, which min_tokens forbids", "allowed_token_ids"
        )


def _allows_ends_alone(params: Any, ends: frozenset[int]) -> bool:
    allowed = set(params.allowed_token_ids or ())
    return bool(allowed) and allowed <= ends.union(params.stop_token_ids or ())
