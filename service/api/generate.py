"""POST /generate: one prompt, a list, or a stream of either."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from service.api.openapi import GENERATED, refusals
from service.api.requests import GenerateRequest
from service.api.results import failed_item, sse, stream_end, total_usage, whole_result
from service.deployment import Deployment, item_ids
from service.engine.protocol import Completion, GenerationRequest
from service.errors import InvalidRequestError, ServiceError
from service.generation.plan import check_token_ids, to_plan
from service.generation.steps import Generation
from service.http.streams import (
    CLIENT_GONE,
    ClientGoneError,
    EventStream,
    as_they_finish,
    unless_gone,
)

logger = logging.getLogger("mergeline")
Item = asyncio.Task[dict[str, Any]]
TOGETHER = 32  # prompts of a list that are encoded before others have their turn
DONE = b"data: [DONE]\n\n"


def generate_router(deployment: Deployment) -> APIRouter:
    """The route, bound to one engine."""
    router = APIRouter()

    @router.post(
        "/generate",
        summary="Generate for one prompt or a list",
        responses={**GENERATED, **refusals(400, 429, 503, 504)},
    )
    async def generate(body: GenerateRequest, http: Request) -> Response:
        http.state.request_id = body.parameters.request_id or http.state.request_id
        deployment.lifecycle.refuse_unless_ready()
        call = _Call(deployment, body, http)
        try:
            if body.stream:
                held = call.held(call.stream_list() if call.is_list else call.stream_one())
                first = await unless_gone(http, anext(held))
                return EventStream(first, held)
            with deployment.request(call.request_id, len(call.prompts)) as call.ticket:
                work = call.answer_list() if call.is_list else call.answer_one()
                return JSONResponse(await unless_gone(http, work))
        except ClientGoneError:
            return Response(status_code=CLIENT_GONE)

    return router


class _Call:
    """One POST /generate under way. Raises InvalidRequestError for what is wrong with all of it."""

    def __init__(self, deployment: Deployment, body: GenerateRequest, http: Request) -> None:
        engine, settings = deployment.engine, deployment.settings
        self.request_id: str = http.state.request_id
        self.is_list = isinstance(body.prompt, list)
        self.prompts = _prompts(body, settings.max_prompts)
        if settings.log_prompts:
            fields = {"request_id": self.request_id, "prompts": self.prompts}
            logger.info("request %s: %r", self.request_id, self.prompts, extra={"fields": fields})
        self._deployment = deployment
        self._parameters = body.parameters
        deployment.adapters.check(body.parameters.adapter)
        self._plan = to_plan(body.parameters, settings.default_parameters, settings.presets)
        check_token_ids(self._plan.sampling, engine.vocab_size)
        timeout = body.parameters.timeout_s
        deadline = None if timeout is None else asyncio.get_running_loop().time() + timeout
        self._generation = Generation(engine, deployment.metrics, self._plan, deadline, http)
        self._model = settings.model_name
        self._trace: dict[str, str] = http.scope["state"].get("trace", {})

    async def answer_one(self) -> dict[str, Any]:
        return await self._whole(self._request(self.prompts[0], self.request_id))

    async def answer_list(self) -> dict[str, Any]:
        tasks: list[Item] = []
        try:
            await self._start(tasks)
            results = await asyncio.gather(*tasks)
        finally:
            for unfinished in tasks:
                unfinished.cancel()
        return {"results": results, "usage": total_usage(results)}

    async def stream_list(self) -> AsyncGenerator[bytes]:
        """One event an item, in the order in which they finish; a step's events in one piece."""
        yield b": accepted\n\n"  # a comment: the headers leave before the first item is done
        tasks: list[Item] = []
        try:
            await self._start(tasks, streaming=True)
            async with aclosing(as_they_finish(tasks)) as finished:
                async for results in finished:
                    yield b"".join(map(sse, results))
        finally:
            for unfinished in tasks:
                unfinished.cancel()
        yield DONE

    async def stream_one(self) -> AsyncGenerator[bytes]:
        """Deltas as they come, then the end with finish_reason and usage."""
        request = self._request(self.prompts[0], self.request_id, stream=True)
        seen: list[Completion] = []
        try:
            async with aclosing(self._generation.steps(request)) as steps:
                async for step in steps:
                    seen.extend(step)
                    for completion in step:
                        yield sse({"index": completion.index, "text": completion.text})
        except ServiceError as error:
            if not seen:
                raise
            yield sse(error.body(self.request_id))
        else:
            yield sse(stream_end(request, seen, self._model))
        yield DONE

    async def held(self, events: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
        """`events`, counted as under way from the first to the last."""
        with self._deployment.request(self.request_id, len(self.prompts)) as self.ticket:
            async with aclosing(events):
                async for event in events:
                    yield event

    async def _start(self, tasks: list[Item], *, streaming: bool = False) -> None:
        """Begin with every prompt. Encoding thousands at once would hold up all other requests."""
        ids = item_ids(self.request_id, len(self.prompts))
        for index, (prompt, request_id) in enumerate(zip(self.prompts, ids, strict=True)):
            item = self._item(index, prompt, request_id, streaming=streaming)
            tasks.append(asyncio.create_task(item))
            if index % TOGETHER == TOGETHER - 1:
                await asyncio.sleep(0)

    async def _item(
        self, index: int, prompt: str, request_id: str, *, streaming: bool
    ) -> dict[str, Any]:
        """One result of a list. What is wrong with this prompt alone does not sink the rest.

        A dead engine does, unless a stream has begun: it is an item's failure then.
        """
        try:
            return {"index": index, **await self._whole(self._request(prompt, request_id))}
        except ServiceError as error:
            if error.status >= 500 and error.error_type != "timeout" and not streaming:
                raise
            return {"index": index, **failed_item(error, request_id, self._model)}
        finally:
            self.ticket.leave_one()

    async def _whole(self, request: GenerationRequest) -> dict[str, Any]:
        completions: list[Completion] = []
        async with aclosing(self._generation.steps(request)) as steps:
            async for step in steps:
                completions.extend(step)
        return whole_result(request, completions, self._model)

    def _request(self, prompt: str, request_id: str, *, stream: bool = False) -> GenerationRequest:
        parameters, engine = self._parameters, self._deployment.engine
        ids = self._deployment.encoder.encode(prompt, raw=parameters.raw)
        return GenerationRequest(
            request_id,
            ids,
            self._plan.for_prompt(len(ids), engine.max_model_len),
            stream,
            parameters.adapter,
            parameters.priority,
            self._trace,
        )


def _prompts(body: GenerateRequest, most: int) -> list[str]:
    prompts = body.prompt if isinstance(body.prompt, list) else [body.prompt]
    if not prompts:
        raise InvalidRequestError("the list of prompts is empty", "prompt")
    if len(prompts) > most:
        raise InvalidRequestError(
            f"{len(prompts)} prompts in one request, at most {most}: split the list", "prompt"
        )
    return prompts
