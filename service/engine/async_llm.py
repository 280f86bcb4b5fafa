"""vLLM's AsyncLLM with what every request needs on its way in, whoever sent it: ours or /v1."""

from collections import Counter
from collections.abc import AsyncGenerator
from typing import Any

import vllm.v1.structured_output.backend_guidance
from vllm.lora.request import LoRARequest
from vllm.outputs import RequestOutput
from vllm.sampling_params import StructuredOutputsParams
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError
from vllm.v1.structured_output.backend_types import StructuredOutputOptions

from service.engine import outputs
from service.engine.grammars.bad_words import without
from service.engine.grammars.trial import GrammarTrial
from service.engine.protocol import ALLOWANCE
from service.engine.refusals import RefusedError, refuse_unservable, spend
from service.errors import InvalidRequestError
from service.machine.placement import Placement


class PlacedLLM(AsyncLLM):
    """Places prompts as the model needs them, and refuses what it could not answer rightly."""

    placement = Placement()
    trial: GrammarTrial
    output_processor: outputs.WatchedOutputs

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._entering: Counter[int] = Counter()
        outputs.register()
        # on the event loop, and once more what the trial has done
        vllm.v1.structured_output.backend_guidance.validate_guidance_grammar = _tried_already
        super().__init__(*args, **kwargs)

    async def generate(
        self, prompt: Any, sampling_params: Any, request_id: str, **more: Any
    ) -> AsyncGenerator[RequestOutput, None]:
        """As AsyncLLM's. Raises RefusedError for what cannot be answered rightly."""
        refuse_unservable(sampling_params, self.placement, self.eos_token_ids)
        self._spend(sampling_params, prompt)
        constraint = await self._constrained(sampling_params)
        placeholders = len(self.placement.placeholders)
        placed = self._placed(prompt, more.get("lora_request"))
        if not {"reasoning_ended", "reasoning_parser_kwargs"} & more.keys():
            more["reasoning_ended"] = True  # /v1/completions: a constraint holds from the start
        async for output in super().generate(placed, sampling_params, request_id, **more):
            if constraint is not None:
                _refuse_given_up(output)
            if placeholders:  # they count nowhere outside the engine
                output.prompt_token_ids = output.prompt_token_ids[placeholders:]
            yield output

    @property
    def eos_token_ids(self) -> frozenset[int]:
        """The tokenizer's, and those that generation_config.json adds."""
        more = self.input_processor.generation_config_fields.get("eos_token_id") or []
        ids = {self.get_tokenizer().eos_token_id, *(more if isinstance(more, list) else [more])}
        return frozenset(ids - {None})

    async def add_request(self, *args: Any, **more: Any) -> Any:
        """As AsyncLLM's: from its end on, the output processor knows the request."""
        lora: LoRARequest | None = more.get("lora_request")
        number = 0 if lora is None else lora.lora_int_id
        self._entering[number] += 1
        ids = self.output_processor.external_req_ids
        before = set(ids.get(args[0], ()))
        try:
            return await super().add_request(*args, **more)
        except BaseException:  # it may be known here, and not to the engine: nothing would end it
            begun = [each for each in ids.get(args[0], ()) if each not in before]
            if begun:
                await self.abort(begun, internal=True)
            raise
        finally:
            self._entering[number] -= 1

    def uses(self, adapter: int) -> bool:
        """Whether a request in the engine, or on its way there, uses that adapter."""
        return bool(self._entering[adapter]) or self.output_processor.uses(adapter)

    def fail_all(self) -> None:
        """Make every running request raise EngineDeadError."""
        self.output_processor.propagate_error(EngineDeadError())

    async def _constrained(self, params: Any) -> Any:
        """The grammar that the text has to follow, if any. Raises RefusedError."""
        if not params.bad_words:
            constraint = params.structured_outputs
            if constraint is not None:
                await self.trial.check(constraint)
            return constraint
        ends = self.eos_token_ids.union(params.stop_token_ids or ())
        grammar = without(params.bad_words, ends - {self.get_tokenizer().eos_token_id})
        await self.trial.check_text(StructuredOutputOptions.GRAMMAR, grammar, "bad_words")
        constraint = StructuredOutputsParams(grammar=grammar)
        params.bad_words, params.structured_outputs = None, constraint
        return constraint

    def _spend(self, params: Any, prompt: Any) -> None:
        allowance = ALLOWANCE.get()
        if allowance is not None and isinstance(prompt, dict):
            tokens = len(prompt.get("prompt_token_ids", ()))
            spend(allowance, params, tokens, self.model_config.max_model_len - tokens)

    def _placed(self, prompt: Any, lora: LoRARequest | None) -> Any:
        if self.placement == Placement() and lora is None:
            return prompt
        if not (isinstance(prompt, dict) and "prompt_token_ids" in prompt):
            raise TypeError(f"a rendered prompt is needed, not {type(prompt).__name__}")
        try:
            ids = self.placement.apply(list(prompt["prompt_token_ids"]))
        except InvalidRequestError as error:
            raise RefusedError(error.message, "prompt") from error
        return {**prompt, "prompt_token_ids": ids, **_salt(prompt, lora)}


def _tried_already(*_: Any, **__: Any) -> None:
    """In the place of vLLM's own check of a grammar."""


def _salt(prompt: Any, lora: LoRARequest | None) -> dict[str, str]:
    """Cached blocks are keyed by the adapter's name and path: another may be there by now."""
    if lora is None:
        return {}
    return {"cache_salt": f"adapter {lora.lora_int_id} {prompt.get('cache_salt') or ''}"}


def _refuse_given_up(output: RequestOutput) -> None:
    if any(one.finish_reason == "error" for one in output.outputs):
        raise RefusedError(
            "the engine gave up following it: it is too complex, or allows no text",
            "structured_outputs",
        )
