"""Log-probabilities that fit the text they come with."""

from dataclasses import replace
from typing import Any

from service.engine.protocol import Completion, GenerationRequest, Position
from service.engine.tokenizers import continuation


def aligned(completion: Completion, request: GenerationRequest, tokenizer: Any) -> Completion:
    """The completion with tokens that add up to its text, and as many alternatives as asked for.

    A character of several tokens stands at its last one. What ends the text adds nothing to it:
    the end token, and the tokens of a stop string that was cut off.
    """
    if completion.logprobs is None:
        return completion
    most = request.sampling.get("logprobs") or 0
    positions, start, text = [], 0, completion.text
    pieces = _pieces(completion, request, tokenizer)
    for piece, position in zip(pieces, completion.logprobs, strict=True):
        token = text[start : start + len(piece)]
        positions.append(Position(replace(position.sampled, token=token), position.top[:most]))
        start += len(piece)
    return replace(completion, logprobs=positions)


def _pieces(completion: Completion, request: GenerationRequest, tokenizer: Any) -> list[str]:
    sampled = [position.sampled for position in completion.logprobs or ()]
    if not hasattr(tokenizer, "backend_tokenizer"):  # one in Python: its tokens are texts
        return [token.token for token in sampled]
    skip = request.sampling.get("skip_special_tokens", True)
    ids = [token.token_id for token in sampled]
    return continuation(tokenizer, request.prompt_ids, ids, skip_special_tokens=skip)
