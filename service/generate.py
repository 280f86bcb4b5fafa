"""POST /generate: one prompt, a list, or a stream of either."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from service.backend import Completion, Engine, GenerationRequest
from service.errors import InvalidRequestError, ServiceError
from service.lifecycle import Lifecycle
from service.metrics import Metrics
from service.prompt import PromptEncoder
from service.results import failed_item, sse, stream_end, total_usage, whole_result
from service.sampling import to_sampling, with_max_tokens
from service.schemas import GenerateRequest
from service.settings import Settings
from service.streams import CLIENT_GONE, ClientGoneError, EventStream, unless_gone

DONE = b"data: [DONE]\n\n"


def generate_router(
    engine: Engine, settings: Settings, lifecycle: Lifecycle, metrics: Metrics
) -> APIRouter:
    """The route, bound to one engine."""
    router = APIRouter()

    @router.post("/generate", summary="Generate for one prompt or a list")
    async def generate(body: GenerateRequest, http: Request) -> Response:
        lifecycle.refuse_unless_ready()
        call = _Call(engine, settings, metrics, body, http.state.request_id)
        try:
            if body.stream:
                events = call.stream_list() if call.is_list else call.stream_one()
                held = _held(lifecycle, events)
                first = await unless_gone(http, anext(held))
                return EventStream(first, held)
            with lifecycle.request():
                work = call.answer_list() if call.is_list else call.answer_one()
                return JSONResponse(await unless_gone(http, work))
        except ClientGoneError:
            return Response(status_code=CLIENT_GONE)

    return router


@dataclass(frozen=True)
class _Call:
    """One POST /generate under way."""

    engine: Engine
    settings: Settings
    metrics: Metrics
    body: GenerateRequest
    request_id: str

    @property
    def is_list(self) -> bool:
        return isinstance(self.body.prompt, list)

    async def answer_one(self) -> dict[str, Any]:
        sampling = self._sampling()
        return await self._whole(self._request(self._prompts()[0], sampling, self.request_id))

    async def answer_list(self) -> dict[str, Any]:
        tasks = [asyncio.create_task(self._item(*job)) for job in self._jobs()]
        try:
            results = await asyncio.gather(*tasks)
        finally:
            for unfinished in tasks:
                unfinished.cancel()
        return {"results": results, "usage": total_usage(results)}

    async def stream_list(self) -> AsyncGenerator[bytes]:
        """One event an item, in the order in which they finish."""
        jobs = self._jobs()
        yield b": accepted\n\n"  # a comment: the headers leave before the first item is done
        tasks = [asyncio.create_task(self._item_or_failure(*job)) for job in jobs]
        try:
            for task in asyncio.as_completed(tasks):
                yield sse(await task)
        finally:
            for unfinished in tasks:
                unfinished.cancel()
        yield DONE

    async def stream_one(self) -> AsyncGenerator[bytes]:
        """Deltas as they come, then the end with finish_reason and usage."""
        request = self._request(self._prompts()[0], self._sampling(), self.request_id, stream=True)
        seen: list[Completion] = []
        try:
            async with aclosing(self._steps(request)) as steps:
                async for step in steps:
                    seen.extend(step)
                    for completion in step:
                        yield sse({"index": completion.index, "text": completion.text})
        except ServiceError as error:
            if not seen:
                raise
            yield sse(error.body(self.request_id))
        else:
            yield sse(stream_end(request, seen, self.settings.model_name))
        yield DONE

    def _jobs(self) -> list[tuple[int, str, dict[str, Any]]]:
        sampling = self._sampling()
        return [(index, prompt, sampling) for index, prompt in enumerate(self._prompts())]

    async def _item_or_failure(
        self, index: int, prompt: str, sampling: dict[str, Any]
    ) -> dict[str, Any]:
        """As `_item`, and a dead engine is an item's failure too: the stream has begun."""
        try:
            return await self._item(index, prompt, sampling)
        except ServiceError as error:
            return self._failed(index, error)

    async def _item(self, index: int, prompt: str, sampling: dict[str, Any]) -> dict[str, Any]:
        """One result of a list. What is wrong with this prompt alone does not sink the rest."""
        try:
            request = self._request(prompt, sampling, self._item_id(index))
            return {"index": index, **await self._whole(request)}
        except InvalidRequestError as error:
            return self._failed(index, error)

    def _failed(self, index: int, error: ServiceError) -> dict[str, Any]:
        item = failed_item(error, self._item_id(index), self.settings.model_name)
        return {"index": index, **item}

    def _item_id(self, index: int) -> str:
        return f"{self.request_id}-{index}"

    def _prompts(self) -> list[str]:
        prompt = self.body.prompt
        prompts = prompt if isinstance(prompt, list) else [prompt]
        if not prompts:
            raise InvalidRequestError("the list of prompts is empty", "prompt")
        if len(prompts) > self.settings.max_prompts:
            raise InvalidRequestError(
                f"{len(prompts)} prompts in one request, at most {self.settings.max_prompts}: "
                "split the list",
                "prompt",
            )
        return prompts

    def _sampling(self) -> dict[str, Any]:
        known, asked = self.settings.adapters_by_name, self.body.parameters.adapter
        if asked is not None and asked not in known:
            names = ", ".join(known) or "none"
            raise InvalidRequestError(
                f"no adapter {asked!r} is served here (known: {names})", "parameters.adapter"
            )
        return to_sampling(self.body.parameters, self.settings, self.engine.vocab_size)

    def _request(
        self, prompt: str, sampling: dict[str, Any], request_id: str, *, stream: bool = False
    ) -> GenerationRequest:
        encoder = PromptEncoder(self.engine.tokenizer)
        ids = encoder.encode(prompt, raw=self.body.parameters.raw)
        sampling = with_max_tokens(
            sampling, len(ids), self.engine.max_model_len, self.settings.default_max_tokens
        )
        adapter = self.body.parameters.adapter
        return GenerationRequest(request_id, ids, sampling, stream, adapter)

    async def _whole(self, request: GenerationRequest) -> dict[str, Any]:
        completions: list[Completion] = []
        async with aclosing(self._steps(request)) as steps:
            async for step in steps:
                completions.extend(step)
        return whole_result(request, completions, self.settings.model_name)

    async def _steps(self, request: GenerationRequest) -> AsyncGenerator[list[Completion]]:
        """The engine's steps, counted however they end."""
        outcome, tokens = "aborted", 0
        try:
            async with aclosing(self.engine.generate(request)) as steps:
                async for step in steps:
                    tokens += sum(completion.token_count for completion in step)
                    yield step
            outcome = "ok"
        except ServiceError:
            outcome = "error"
            raise
        finally:
            self.metrics.prompts.labels(outcome).inc()
            self.metrics.tokens.labels("prompt").inc(len(request.prompt_ids))
            self.metrics.tokens.labels("completion").inc(tokens)


async def _held(lifecycle: Lifecycle, events: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    """`events`, counted as in flight from the first to the last."""
    with lifecycle.request():
        async with aclosing(events):
            async for event in events:
                yield event
