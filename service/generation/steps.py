"""From a planned request to the engine's steps, sampled or by beams: bounded and counted."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

from fastapi import Request

from service.engine.protocol import Completion, Engine, GenerationRequest, Step
from service.errors import GenerationTimeoutError, ServiceError
from service.generation.beams import BeamSearch
from service.generation.plan import Plan
from service.metrics import Metrics


@dataclass(frozen=True)
class Generation:
    """How the prompts of one HTTP request are generated for."""

    engine: Engine
    metrics: Metrics
    plan: Plan
    deadline: float | None
    """In the event loop's time; the engine gives a prompt up then."""
    http: Request

    async def steps(self, request: GenerationRequest) -> AsyncGenerator[list[Completion]]:
        """What the engine gives, counted however it ends.

        Raises what the engine raises, and GenerationTimeoutError.
        """
        outcome, tokens = "aborted", 0
        try:
            async with aclosing(self._in_time(request)) as steps:
                async for step in steps:
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
            state = self.http.scope["state"]
            state["prompt_tokens"] = state.get("prompt_tokens", 0) + len(request.prompt_ids)
            state["completion_tokens"] = state.get("completion_tokens", 0) + tokens

    async def _in_time(self, request: GenerationRequest) -> AsyncGenerator[Step]:
        """A deadline a step, since the steps of a stream may be asked for by several tasks."""
        async with aclosing(self._engine_steps(request)) as steps:
            while True:
                try:
                    async with asyncio.timeout_at(self.deadline):
                        step = await anext(steps)
                except StopAsyncIteration:
                    return
                except TimeoutError:
                    raise GenerationTimeoutError(
                        "timeout_s is over before the answer was complete", "parameters.timeout_s"
                    ) from None
                yield step

    def _engine_steps(self, request: GenerationRequest) -> AsyncGenerator[Step]:
        if self.plan.beam_width > 1:
            return self._beam_steps(request)
        return self.engine.generate(request)

    async def _beam_steps(self, request: GenerationRequest) -> AsyncGenerator[Step]:
        search = BeamSearch(self.engine, request, self.plan.beam_width, self.plan.length_penalty)
        yield Step(await search.run())
