"""Structured outputs tried before the engine gets them: what is built and what a token costs."""

import asyncio
import time
from collections import OrderedDict, deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import llguidance.hf
import llguidance.numpy
import numpy as np
from transformers import TokenizersBackend
from vllm.v1.structured_output.backend_guidance import serialize_guidance_grammar
from vllm.v1.structured_output.backend_types import StructuredOutputOptions
from vllm.v1.structured_output.request import get_structured_output_key

from service.engine.grammars.bounded import limits_of
from service.engine.grammars.size import refuse_costly
from service.engine.refusals import RefusedError

REMEMBERED, READ = 256, 16
TOKENS, ENOUGH_MS = 256, 100.0
LAST = 16  # tokens whose cost counts
SEED = 0
FIELD = "structured_outputs"


@dataclass
class Trying:
    """A grammar that is being tried, or was."""

    problem: asyncio.Future[str | None]
    waiting: int = 0


class GrammarTrial:
    """Writes some random tokens by each new grammar, in a thread, and measures the time."""

    def __init__(self, tokenizer: Any, vocab_size: int, most_ms: float) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = max(vocab_size, len(tokenizer))
        self._most_ms = most_ms
        self._thread = ThreadPoolExecutor(1, "try-grammar")
        self._tried: OrderedDict[Any, Trying] = OrderedDict()
        self._read: deque[str] = deque(maxlen=READ)  # schemas that are not too large

    async def check(self, constraint: Any) -> None:
        """Raise RefusedError for vLLM's StructuredOutputsParams that cost too much.

        A JSON schema becomes a text: a number in it may be beyond msgpack's.
        """
        key = self._key(constraint)
        if constraint.json is not None:
            constraint.json = key[1]
        await self.check_text(key[0], key[1], FIELD)

    async def check_text(self, kind: StructuredOutputOptions, text: str, field: str) -> None:
        """The same for one that is read; RefusedError names the field."""
        if not isinstance(self._tokenizer, TokenizersBackend):
            return  # vLLM refuses these itself
        problem = await self._outcome((kind, text))
        if problem is not None:
            raise RefusedError(f"{field}: {problem}", field)

    def _key(self, constraint: Any) -> Any:
        """vLLM's: kind and text. That of a schema is not read for every prompt of a list."""
        text = constraint.json
        if isinstance(text, str) and text in self._read:
            return StructuredOutputOptions.JSON, text
        try:
            refuse_costly(constraint)
        except ValueError as error:
            raise RefusedError(f"{FIELD}: {error}", FIELD) from error
        key = get_structured_output_key(constraint)
        if constraint.json is not None:
            self._read.append(key[1])
        return key

    async def _outcome(self, key: Any) -> str | None:
        """What is wrong with it. All who ask meanwhile share one trial."""
        trying = self._tried.get(key) or self._begin(key)
        trying.waiting += 1
        try:
            return await asyncio.shield(trying.problem)
        except BaseException:  # its clients have left, or it fell over: another may try again
            if trying.waiting == 1 and self._tried.get(key) is trying:
                trying.problem.cancel()
                del self._tried[key]
            raise
        finally:
            trying.waiting -= 1

    def _begin(self, key: Any) -> Trying:
        loop = asyncio.get_running_loop()
        trying = Trying(loop.run_in_executor(self._thread, self._problem, *key))
        self._tried[key] = trying
        if len(self._tried) > REMEMBERED:
            oldest, first = next(iter(self._tried.items()))
            if first.problem.done():
                del self._tried[oldest]
        return trying

    def _problem(self, kind: Any, spec: str) -> str | None:
        try:
            grammar = serialize_guidance_grammar(kind, spec, disable_any_whitespace=True)
            tokens = self._tokens
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            return f"it cannot be followed: {_short(error)}"
        matcher = llguidance.LLMatcher(tokens, grammar, log_level=0, limits=limits_of(spec))
        milliseconds = self._milliseconds_a_token(matcher)
        if matcher.is_error():
            return f"it is too complex, or wrong: {_short(matcher.get_error())}"
        if milliseconds > self._most_ms:
            return (
                f"following it takes {milliseconds:.1f} ms a token, at most {self._most_ms:g} "
                "(max_grammar_ms): use fewer and smaller repetitions"
            )
        return None

    @cached_property
    def _tokens(self) -> Any:
        """The tokenizer as llguidance needs it. Raises ValueError for one that it cannot read."""
        return llguidance.hf.from_tokenizer(self._tokenizer, self._vocab_size)

    def _milliseconds_a_token(self, matcher: Any) -> float:
        """On the processor, at the end of a random text of the grammar: some grow with it."""
        mask = llguidance.numpy.allocate_token_bitmask(1, self._vocab_size)
        random = np.random.default_rng(SEED)
        last: deque[float] = deque(maxlen=LAST)
        spent, tokens = 0.0, 0
        while tokens < TOKENS and spent < ENOUGH_MS and not matcher.is_error():
            last.append(_fill(matcher, mask))
            allowed = self._allowed(mask)
            if matcher.is_stopped() or not len(allowed):
                break
            matcher.consume_tokens([int(random.choice(allowed))])
            spent, tokens = spent + last[-1], tokens + 1
        return sum(last) / max(len(last), 1)

    def _allowed(self, mask: Any) -> Any:
        """The token ids that a mask allows, but for the end."""
        bits = np.unpackbits(mask.view(np.uint8), bitorder="little")[: self._vocab_size]
        ids = np.flatnonzero(bits)
        return ids[ids != self._tokens.eos_token]


def _fill(matcher: Any, mask: Any) -> float:
    """The milliseconds that it takes to find the next token's mask."""
    begin = time.thread_time()
    llguidance.numpy.fill_next_token_bitmask(matcher, mask, 0)
    return (time.thread_time() - begin) * 1000


def _short(error: Any) -> str:
    return str(error).partition("\n")[0][:200]
