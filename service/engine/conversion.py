"""Our requests as vLLM's, and vLLM's outputs and errors as ours."""

import re
from typing import Any

from service.engine.protocol import Completion, GenerationRequest, Position, Timing, TokenLogprob

FORBIDDEN = -9999.0
"""Log-probability of a token that cannot be chosen, as vLLM's own server writes it."""


def prompt(request: GenerationRequest) -> Any:
    """What AsyncLLM.generate takes as prompt."""
    from vllm.inputs import tokens_input

    return tokens_input(request.prompt_ids)


def sampling_params(request: GenerationRequest) -> Any:
    """The SamplingParams of vLLM: deltas for a stream, else one output at the end."""
    from vllm.sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams

    kind = RequestOutputKind.DELTA if request.stream else RequestOutputKind.FINAL_ONLY
    fields = dict(request.sampling)
    if "structured_outputs" in fields:
        fields["structured_outputs"] = StructuredOutputsParams(**fields["structured_outputs"])
    # made for this request alone: vLLM need not copy it: its own server does the same
    return SamplingParams(**fields, output_kind=kind, skip_clone=True)


def completion(output: Any) -> Completion:
    """One of a RequestOutput's outputs."""
    return Completion(
        index=output.index,
        text=output.text,
        token_count=len(output.token_ids),
        finish_reason=output.finish_reason,
        logprobs=None if output.logprobs is None else _positions(output),
        token_ids=list(output.token_ids),
    )


def timing(output: Any) -> Timing | None:
    """Of a RequestOutput that is the last one; None before."""
    stats = output.metrics
    if not output.finished or stats is None:
        return None
    return Timing(max(0.0, stats.scheduled_ts - stats.queued_ts), stats.first_token_latency)


def _positions(output: Any) -> list[Position]:
    """From vLLM's dict per position: token id -> logprob, the sampled token among them."""
    positions = []
    for token_id, candidates in zip(output.token_ids, output.logprobs, strict=True):
        ranked = sorted(candidates.items(), key=lambda item: -item[1].logprob)
        top = [TokenLogprob(i, c.decoded_token or "", _finite(c.logprob)) for i, c in ranked]
        positions.append(Position(next(t for t in top if t.token_id == token_id), top))
    return positions


def _finite(logprob: float) -> float:
    """JSON has no -Infinity, which a token has that a grammar forbids."""
    return max(logprob, FORBIDDEN)


def first_line(text: str) -> str:
    """What a grammar's parser says goes on with places in its own source."""
    return re.sub(r"^(.*: )?\[[\d:]+\] \S+\.cc:\d+: ", r"\1", text.partition("\n")[0])


def parameter(request: GenerationRequest, error: Exception) -> str | None:
    """The field that a validation error of vLLM is about."""
    name = getattr(error, "parameter", None)
    if name is None and "structured_outputs" in request.sampling:
        name = "structured_outputs"
    return name if name in (None, "prompt") else f"parameters.{name}"
