"""Structured outputs in the engine's process, with bounds on what each may cost.

The engine follows a grammar between two steps of all requests: a costly one holds up everybody.
llguidance bounds the size of what it builds; time is measured here, at every token.
"""

import time
from dataclasses import dataclass
from typing import Any

import llguidance
from llguidance import LLParserLimits
from vllm.v1 import structured_output
from vllm.v1.structured_output.backend_guidance import (
    GuidanceBackend,
    GuidanceGrammar,
    serialize_guidance_grammar,
)

from service.engine.grammars.bad_words import MARK

LIMITS = LLParserLimits(initial_lexer_fuel=200_000, max_lexer_states=50_000)
"""For grammars of users: a fifth of llguidance's own, with which the first token takes a second."""
WORDS_LIMITS = LLParserLimits(max_lexer_states=50_000)
"""For our own grammars of words to leave out, whose many states cost little time."""
SLOW_TOKEN_S = 0.02
MOST_SLOW_TOKENS = 3


def limits_of(grammar: str) -> LLParserLimits:
    """The limits that hold for one grammar."""
    return WORDS_LIMITS if MARK in grammar else LIMITS


def register() -> None:
    """Have vLLM use this backend in this process."""
    structured_output.GuidanceBackend = BoundedBackend


@dataclass
class BoundedGrammar(GuidanceGrammar):
    """Ends its request, with finish_reason error, when it keeps being slow."""

    slow_tokens: int = 0

    def fill_bitmask(self, bitmask: Any, idx: int) -> None:
        """As GuidanceGrammar's."""
        begin = time.thread_time()
        super().fill_bitmask(bitmask, idx)
        self.slow_tokens += time.thread_time() - begin > SLOW_TOKEN_S

    def accept_tokens(self, request_id: str, tokens: list[int]) -> bool:
        """As GuidanceGrammar's; False ends the request."""
        if self.slow_tokens > MOST_SLOW_TOKENS:
            return False
        return bool(super().accept_tokens(request_id, tokens))


@dataclass
class BoundedBackend(GuidanceBackend):
    """Builds such grammars."""

    def compile_grammar(
        self, request_type: Any, grammar_spec: str, stop_token_ids: set[int] | None = None
    ) -> BoundedGrammar:
        """As GuidanceBackend's, which passes no limits."""
        text = serialize_guidance_grammar(
            request_type,
            grammar_spec,
            self.disable_any_whitespace,
            self.disable_additional_properties,
        )
        matcher = llguidance.LLMatcher(
            self.ll_tokenizer, text, log_level=0, limits=limits_of(grammar_spec)
        )
        grammar = BoundedGrammar(matcher, self.ll_tokenizer, self.vocab_size)
        grammar.check_error()
        return grammar
