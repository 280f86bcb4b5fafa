"""From a planned request to the engine's steps, sampled or by beams: bounded and counted."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

from service.engine.protocol import Completion, Engine, GenerationRequest, Step
from service.errors import GenerationTimeoutError, ServiceError
from service.generation.beams import BeamSearch
from service.generation.plan import Plan
from service.metrics import Metrics
from service.request_record import RequestRecord


@dataclass(frozen=True)
class Generation:
    """How the prompts of one HTTP request are generated for."""

    engine: Engine
    metrics: Metrics
    plan: Plan
    deadline: float | None
    """In the event loop's time; the engine gives a prompt up then."""
    record: RequestRecord

    async def steps(self, request: GenerationRequest) -> AsyncGenerator[list[Completion]]:
        """What the engine gives, counted however it ends.

        Raises what the engine raises, and GenerationTimeoutError.
        """
        outcome, tokens = "aborted", 0
        try:
            async with aclosing(self._engine_steps(request)) as steps:
                while step := await self._next(steps):
                    tokens += sum(completion.token_count for completion in step.completions)
                    if step.timing:
                        self.metrics.queue_wait.observe(step.timing.queued)
                        self.metrics.first_token.observe(step.timing.to_first_token)
                    yield step.completions
            outcome = "ok"
        except GenerationTimeoutError:
            outcome = "timeout"
            raise
        except ServiceError:
            outcome = "error"
            raise
        finally:
            self.metrics.prompts.labels(outcome).inc()
            self.metrics.tokens.labels("prompt").inc(len(request.prompt_ids))
            self.metrics.tokens.labels("completion").inc(tokens)
            self.record.prompt_tokens += len(request.prompt_ids)
            self.record.completion_tokens += tokens

    async def _next(self, steps: AsyncGenerator[Step]) -> Step | None:
        """The next step, None after the last.

        The deadline holds for each, since several tasks may draw a stream's steps.
        """
        try:
            async with asyncio.timeout_at(self.deadline):
                return await anext(steps, None)
        except TimeoutError:
            raise GenerationTimeoutError(
                "timeout_s is over before the answer was complete", "parameters.timeout_s"
            ) from None

    def _engine_steps(self, request: GenerationRequest) -> AsyncGenerator[Step]:
        if self.plan.beam_width > 1:
            return self._beam_steps(request)
        return self.engine.generate(request)

    async def _beam_steps(self, request: GenerationRequest) -> AsyncGenerator[Step]:
        search = BeamSearch(self.engine, request, self.plan.beam_width, self.plan.length_penalty)
        yield Step(await search.run())
