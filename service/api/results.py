"""Answers of the HTTP contract, from an engine's completions."""

import json
from collections.abc import Callable, Iterable, Mapping
from itertools import chain

from service.api.answers import Delta, ListItem, Logprob, Output, PositionLogprobs, Result, Usage
from service.engine.protocol import Completion, GenerationRequest, Position, TokenLogprob
from service.errors import ServiceError
from service.http.streams import LINE_SEPARATORS

Align = Callable[[Completion, GenerationRequest], Completion]
"""Makes the tokens of a completion's log-probabilities add up to its text."""


def whole_result(
    request: GenerationRequest, completions: list[Completion], model: str, align: Align
) -> Result:
    """The answer to one prompt, of one or several completions."""
    completions = [align(completion, request) for completion in completions]
    first = completions[0]
    completion_tokens = sum(completion.token_count for completion in completions)
    result: Result = {
        "generated_text": first.text,
        "finish_reason": first.finish_reason,
        "usage": _usage(
            len(request.prompt_ids),
            completion_tokens,
            sum(completion.thought_tokens for completion in completions),
        ),
        "request_id": request.request_id,
        "model": model,
        "error": None,
        "num_output_tokens_cf": completion_tokens,  # the name that the original clients read
    }
    _add_extras(result, first)
    if len(completions) > 1:
        result["outputs"] = [_output(completion) for completion in completions]
    return result


def stream_end(
    request: GenerationRequest, deltas: list[Completion], model: str, align: Align
) -> Result:
    """The last event of a stream: the whole text again, so that a client need not add it up."""
    by_index: dict[int, list[Completion]] = {}
    for delta in deltas:
        by_index.setdefault(delta.index, []).append(delta)
    return whole_result(request, [_joined(by_index[i]) for i in sorted(by_index)], model, align)


def delta(completion: Completion) -> Delta:
    """What a step of a stream adds."""
    added = Delta(index=completion.index, text=completion.text)
    if completion.thought is not None:
        added["reasoning"] = completion.thought
    return added


def failed_item(index: int, error: ServiceError, request_id: str, model: str) -> ListItem:
    """The place in a list of a prompt that could not be answered."""
    return {
        "index": index,
        "generated_text": None,
        "finish_reason": None,
        "usage": _usage(0, 0),
        "request_id": request_id,
        "model": model,
        "error": error.failure(),
        "num_output_tokens_cf": 0,
    }


def total_usage(results: Iterable[ListItem]) -> Usage:
    """Token counts of a whole list."""
    usages = [result["usage"] for result in results]
    return _usage(
        *(_sum(usages, f"{kind}_tokens") for kind in ("prompt", "completion", "reasoning"))
    )


def _sum(usages: Iterable[Usage], name: str) -> int:
    return sum(int(dict(usage).get(name, 0)) for usage in usages)  # type: ignore[call-overload]


def sse(event: Mapping[str, object]) -> bytes:
    """One server-sent event. JSON holds no raw line break, so one data line is enough.

    What clients may take for one is escaped.
    """
    data = json.dumps(event, ensure_ascii=False, allow_nan=False)
    for separator, escaped in LINE_SEPARATORS.items():
        data = data.replace(separator, escaped)
    return f"data: {data}\n\n".encode()


def _joined(deltas: list[Completion]) -> Completion:
    return Completion(
        index=deltas[0].index,
        text="".join(delta.text for delta in deltas),
        token_count=sum(delta.token_count for delta in deltas),
        finish_reason=deltas[-1].finish_reason,
        logprobs=_joined_logprobs(deltas),
        token_ids=[token for delta in deltas for token in delta.token_ids],
    )


def _joined_logprobs(deltas: list[Completion]) -> list[Position] | None:
    """None where they were not asked for."""
    given = [delta.logprobs for delta in deltas if delta.logprobs is not None]
    return list(chain.from_iterable(given)) if given else None


def _output(completion: Completion) -> Output:
    output: Output = {
        "index": completion.index,
        "generated_text": completion.text,
        "finish_reason": completion.finish_reason,
        "num_output_tokens_cf": completion.token_count,
    }
    _add_extras(output, completion)
    return output


def _add_extras(answer: Result | Output, completion: Completion) -> None:
    """What only some completions have."""
    if completion.thought is not None:
        answer["reasoning"] = completion.thought
    if completion.logprobs is not None:
        answer["logprobs"] = _logprobs(completion.logprobs)


def _logprobs(positions: list[Position]) -> list[PositionLogprobs]:
    return [
        {**_logprob(position.sampled), "top_logprobs": [_logprob(top) for top in position.top]}
        for position in positions
    ]


def _logprob(token: TokenLogprob) -> Logprob:
    return {"token_id": token.token_id, "token": token.token, "logprob": token.logprob}


def _usage(prompt_tokens: int, completion_tokens: int, reasoning_tokens: int = 0) -> Usage:
    usage: Usage = {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }
    if reasoning_tokens:
        usage["reasoning_tokens"] = reasoning_tokens
    return usage
