"""What comes out of vLLM's engine, where it arrives: before any client has read it."""

import time
from typing import Any

import vllm.v1.engine.async_llm
import vllm.v1.engine.detokenizer
import vllm.v1.engine.logprobs
from tokenizers.decoders import DecodeStream
from vllm.tokenizers.detokenizer_utils import convert_ids_list_to_tokens
from vllm.v1.engine.detokenizer import FastIncrementalDetokenizer
from vllm.v1.engine.output_processor import OutputProcessor, OutputProcessorOutput

from service.engine.tokenizers import stream_after


def register() -> None:
    """Have vLLM use what is here in this process."""
    vllm.v1.engine.async_llm.OutputProcessor = WatchedOutputs
    vllm.v1.engine.detokenizer.FastIncrementalDetokenizer = WholeCharacters
    vllm.v1.engine.logprobs.convert_ids_list_to_tokens = TokenTexts()


class WatchedOutputs(OutputProcessor):
    """Knows when the engine last computed something, and which adapters its requests use."""

    _progressed_at = 0.0  # time.monotonic()
    _cache_usage = 0.0

    def add_request(self, *args: Any, **more: Any) -> None:
        """As OutputProcessor's."""
        if not self.request_states:  # until now nothing waited
            self._progressed_at = time.monotonic()
        super().add_request(*args, **more)

    def process_outputs(
        self, engine_core_outputs: list[Any], *args: Any, **more: Any
    ) -> OutputProcessorOutput:
        """As OutputProcessor's."""
        if engine_core_outputs:
            self._progressed_at = time.monotonic()
        return super().process_outputs(engine_core_outputs, *args, **more)

    def update_scheduler_stats(self, scheduler_stats: Any) -> None:
        """As OutputProcessor's.

        A long prompt takes several steps that bring no token; each needs more of the cache.
        """
        usage = self._cache_usage if scheduler_stats is None else scheduler_stats.kv_cache_usage
        if usage != self._cache_usage:
            self._cache_usage = usage
            self._progressed_at = time.monotonic()
        super().update_scheduler_stats(scheduler_stats)

    def stalled_for(self) -> float:
        """Seconds since the last progress; 0 when no request runs."""
        return time.monotonic() - self._progressed_at if self.request_states else 0.0

    def uses(self, adapter: int) -> bool:
        """Whether a request that has not ended uses the adapter of that lora_int_id."""
        requests = (state.lora_request for state in self.request_states.values())
        return any(lora is not None and lora.lora_int_id == adapter for lora in requests)


class TokenTexts:
    """The texts of single tokens, beside log-probabilities, each found once.

    Finding one takes ten microseconds of the event loop, which each candidate of each token would.
    """

    def __init__(self) -> None:
        self._known: dict[int, str] = {}  # at most the vocabulary

    def __call__(self, tokenizer: Any, token_ids: list[int]) -> list[str]:
        """As vLLM's convert_ids_list_to_tokens; for one tokenizer, a server's."""
        new = list({token_id for token_id in token_ids if token_id not in self._known})
        if new:
            self._known.update(zip(new, convert_ids_list_to_tokens(tokenizer, new), strict=True))
        return [self._known[token_id] for token_id in token_ids]


class WholeCharacters(FastIncrementalDetokenizer):
    """As vLLM's, also for a prompt that ends inside a character: vLLM's repeats such a prompt."""

    def __init__(self, tokenizer: Any, request: Any) -> None:
        super().__init__(tokenizer, request)
        self.stream: DecodeStream = stream_after(
            self.tokenizer,
            request.prompt_token_ids or [],
            skip_special_tokens=self.skip_special_tokens,
        )
