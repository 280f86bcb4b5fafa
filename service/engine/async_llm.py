"""vLLM's AsyncLLM with what every request needs on its way in, whoever sent it: ours or /v1."""

import time
from collections import Counter
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

from vllm.inputs import tokens_input
from vllm.lora.request import LoRARequest
from vllm.outputs import RequestOutput
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError

from service.engine.constraints import refuse_costly
from service.machine.placement import Placement


@dataclass
class Progress:
    """When the engine last gave an output, and how many requests are waiting for one."""

    unfinished: int = 0
    last: float = 0.0  # time.monotonic()

    def stalled_for(self) -> float:
        """Seconds since the last output; 0 when no request runs."""
        return time.monotonic() - self.last if self.unfinished else 0.0


class PlacedLLM(AsyncLLM):
    """Places prompts as the model needs them, and tracks progress and adapters in use."""

    placement = Placement()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.progress = Progress()
        self.adapters_in_use: Counter[int] = Counter()
        super().__init__(*args, **kwargs)

    async def generate(
        self, prompt: Any, sampling_params: Any, request_id: str, **more: Any
    ) -> AsyncGenerator[RequestOutput, None]:
        """As AsyncLLM's. Raises InvalidRequestError for a prompt that cannot be placed.

        And ValueError for structured outputs that would take all memory, or that no text follows.
        """
        constraint = sampling_params.structured_outputs
        refuse_costly(constraint)
        lora: LoRARequest | None = more.get("lora_request")
        key = 0 if lora is None else lora.lora_int_id
        progress = self.progress
        if not progress.unfinished:
            progress.last = time.monotonic()
        progress.unfinished += 1
        self.adapters_in_use[key] += 1
        placeholders = len(self.placement.placeholders)
        try:
            placed = self._placed(prompt)
            async for output in super().generate(placed, sampling_params, request_id, **more):
                progress.last = time.monotonic()
                if constraint is not None:
                    _refuse_given_up(output)
                if placeholders:  # they count nowhere outside the engine
                    output.prompt_token_ids = output.prompt_token_ids[placeholders:]
                yield output
        finally:
            progress.unfinished -= 1
            self.adapters_in_use[key] -= 1

    def fail_all(self) -> None:
        """Make every running request raise EngineDeadError."""
        self.output_processor.propagate_error(EngineDeadError())

    def _placed(self, prompt: Any) -> Any:
        if self.placement == Placement():
            return prompt
        if not (isinstance(prompt, dict) and "prompt_token_ids" in prompt):
            raise TypeError(f"a rendered prompt is needed, not {type(prompt).__name__}")
        ids = self.placement.apply(list(prompt["prompt_token_ids"]))
        return tokens_input(ids) if "type" in prompt else {**prompt, "prompt_token_ids": ids}


def _refuse_given_up(output: RequestOutput) -> None:
    if any(one.finish_reason == "error" for one in output.outputs):
        raise ValueError(
            "structured_outputs: the engine gave up following it: it is too complex, or allows no "
            "text"
        )
