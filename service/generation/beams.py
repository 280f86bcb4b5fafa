"""Beam search over an engine that samples: each step gets every beam's likeliest next tokens.

The rules are those of transformers' `generate(num_beams=…, early_stopping=False)`: a beam scores
log-probability / tokens ** length_penalty, over the tokens that it generated (its end included).
vLLM's own online beam search, which the design first meant to use, counts the prompt's tokens in
that length, knows a single end token, and always runs to max_tokens.
"""

import asyncio
import heapq
from contextlib import aclosing
from dataclasses import dataclass, replace

from service.engine.protocol import Completion, Engine, GenerationRequest
from service.engine.tokenizers import continuation


@dataclass(frozen=True)
class _Beam:
    ids: tuple[int, ...]
    logprob: float
    score: float = 0.0
    finish_reason: str = "abort"


@dataclass(frozen=True)
class BeamSearch:
    """One prompt's search for the best `width` answers."""

    engine: Engine
    request: GenerationRequest
    width: int
    length_penalty: float

    async def run(self) -> list[Completion]:
        """The best answers, the best first; as many as sampling's `n`.

        Raises what the engine raises; an abort ends the search with what it has.
        """
        running, finished = [_Beam((), 0.0)], []
        max_tokens = self.request.sampling["max_tokens"]
        for length in range(1, max_tokens + 1):
            candidates = await self._candidates(running)
            if candidates is None:
                finished += running
                break
            last = length == max_tokens
            finished = self._best(finished, candidates, last=last)
            running = self._going_on(candidates)
            if last or not running or not self._can_improve(running[0], length, finished):
                break
        best = finished[: self.request.sampling.get("n", self.width)]
        return [self._completion(index, beam) for index, beam in enumerate(best)]

    @property
    def _ends(self) -> frozenset[int]:
        sampling = self.request.sampling
        ends = frozenset(sampling.get("stop_token_ids", ()))
        return ends if sampling.get("ignore_eos") else ends | self.engine.eos_token_ids

    async def _candidates(self, beams: list[_Beam]) -> list[_Beam] | None:
        """The likeliest continuations of all beams, the best first; None after an abort."""
        # so many that enough are left when every beam could end with every end token
        count = (1 + max(1, len(self._ends))) * self.width
        steps = await asyncio.gather(*(self._next_tokens(beam, count) for beam in beams))
        continued = []
        for beam, step in zip(beams, steps, strict=True):
            if step.logprobs is None or step.finish_reason == "abort":
                return None
            continued += [
                _Beam((*beam.ids, token.token_id), beam.logprob + token.logprob)
                for token in step.logprobs[0].top
            ]
        return heapq.nlargest(count, continued, key=lambda beam: beam.logprob)

    async def _next_tokens(self, beam: _Beam, count: int) -> Completion:
        sampling = {
            "max_tokens": 1,
            "temperature": 0.0,
            "logprobs": count,
            "ignore_eos": True,
            "detokenize": False,
        }
        ids = [*self.request.prompt_ids, *beam.ids]
        request = replace(self.request, prompt_ids=ids, sampling=sampling, stream=False)
        async with aclosing(self.engine.generate(request)) as steps:
            async for step in steps:
                return step.completions[0]
        raise RuntimeError("the engine gave no answer for a beam")

    def _best(self, finished: list[_Beam], candidates: list[_Beam], *, last: bool) -> list[_Beam]:
        """The best of those that had ended and of those that end now."""
        scored = [self._ended(beam, last=last) for beam in candidates[: self.width]]
        finished = finished + [beam for beam in scored if beam is not None]
        return sorted(finished, key=lambda beam: -beam.score)[: self.width]

    def _ended(self, beam: _Beam, *, last: bool) -> _Beam | None:
        stops = beam.ids[-1] in self._ends
        if not (stops or last):
            return None
        score = beam.logprob / len(beam.ids) ** self.length_penalty
        return replace(beam, score=score, finish_reason="stop" if stops else "length")

    def _going_on(self, candidates: list[_Beam]) -> list[_Beam]:
        return [beam for beam in candidates if beam.ids[-1] not in self._ends][: self.width]

    def _can_improve(self, best: _Beam, length: int, finished: list[_Beam]) -> bool:
        if len(finished) < self.width:
            return True
        score: float = best.logprob / length**self.length_penalty
        return score > finished[-1].score

    def _completion(self, index: int, beam: _Beam) -> Completion:
        ids = list(beam.ids[:-1] if beam.finish_reason == "stop" else beam.ids)
        skip = self.request.sampling.get("skip_special_tokens", True)
        pieces = continuation(
            self.engine.tokenizer, self.request.prompt_ids, ids, skip_special_tokens=skip
        )
        return Completion(index, "".join(pieces), len(beam.ids), beam.finish_reason, token_ids=ids)
