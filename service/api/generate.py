"""POST /generate: one prompt, a list, or a stream of either."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractContextManager, aclosing, asynccontextmanager

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from service.api.answers import ListItem, Result, ResultList
from service.api.openapi import GENERATED, refusals
from service.api.requests import GenerateRequest
from service.api.results import delta, failed_item, sse, stream_end, total_usage, whole_result
from service.api.v1_requests import most_repeated
from service.deployment import Deployment, UnderWay, item_ids
from service.engine.protocol import Completion, GenerationRequest
from service.errors import InvalidRequestError, ServiceError
from service.generation.adapter_registry import Lease
from service.generation.chat import PLAIN
from service.generation.logprobs import aligned
from service.generation.plan import check_token_ids, refuse_long_answer, to_plan
from service.generation.steps import Generation
from service.generation.thoughts import Thoughts, apart
from service.http.streams import (
    CLIENT_GONE,
    ClientGoneError,
    EventStream,
    as_they_finish,
    unless_gone,
)
from service.parameters import refuse_overtaking
from service.request_record import RequestRecord, record_of

logger = logging.getLogger("mergeline")
Item = asyncio.Task[ListItem]
TOGETHER = 32  # prompts of a list that are encoded before others have their turn
CHARACTERS_TOGETHER = 16_384
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
        record = record_of(http.scope)
        record.request_id = body.parameters.request_id or record.request_id
        call = _Call(deployment, body, record)
        try:
            if body.stream:
                events = call.stream_list() if call.is_list else call.stream_one()
                first = await unless_gone(http, anext(events))
                return EventStream(first, events)
            work = call.answer_list() if call.is_list else call.answer_one()
            return JSONResponse(await unless_gone(http, work))
        except ClientGoneError:
            return Response(status_code=CLIENT_GONE)

    return router


class _Call:
    """One POST /generate under way. Raises InvalidRequestError for what is wrong with all of it."""

    def __init__(
        self, deployment: Deployment, body: GenerateRequest, record: RequestRecord
    ) -> None:
        engine, settings = deployment.engine, deployment.settings
        self._encoder = deployment.lifecycle.require_ready().encoder
        self._record, self._id = record, record.request_id
        self.is_list = isinstance(body.prompt, list)
        self._prompts = _prompts(body, settings.max_prompts)
        if settings.log_prompts:
            fields = {"request_id": self._id, "prompts": self._prompts}
            logger.info("request %s: %r", self._id, self._prompts, extra={"fields": fields})
        self._deployment = deployment
        self._parameters = body.parameters
        refuse_overtaking(record, body.parameters.priority, "parameters.priority")
        self._plan = to_plan(body.parameters, settings.default_parameters, settings.presets)
        _refuse_repeated(len(self._prompts), (self._plan.chat or PLAIN).size)
        self._encoder.template.check(self._plan.chat)
        self._division = self._encoder.template.division(self._plan.chat)
        check_token_ids(self._plan.sampling, engine.vocab_size)
        together = 1 if body.stream else len(self._prompts)
        most = settings.max_answer_logprobs
        refuse_long_answer(self._plan, together, engine.max_model_len, most)
        timeout = body.parameters.timeout_s
        deadline = None if timeout is None else asyncio.get_running_loop().time() + timeout
        self._generation = Generation(engine, deployment.metrics, self._plan, deadline, record)
        self._model = settings.model_name

    async def answer_one(self) -> Result:
        with self._under_way() as under_way:
            return await self._whole(await self._request(0, self._id, under_way.lease))

    async def answer_list(self) -> ResultList:
        with self._under_way() as under_way:
            async with self._items(under_way) as items:
                results = await asyncio.gather(*items)
        return {"results": results, "usage": total_usage(results)}

    async def stream_list(self) -> AsyncGenerator[bytes]:
        """One event an item, in the order in which they finish; a step's events in one piece."""
        with self._under_way() as under_way:
            yield b": accepted\n\n"  # a comment: the headers leave before the first item is done
            async with (
                self._items(under_way, streaming=True) as items,
                aclosing(as_they_finish(items)) as finished,
            ):
                async for results in finished:
                    yield b"".join(map(sse, results))
            yield DONE

    async def stream_one(self) -> AsyncGenerator[bytes]:
        """Deltas as they come, then the end with finish_reason and usage."""
        with self._under_way() as under_way:
            request = await self._request(0, self._id, under_way.lease, stream=True)
            seen: list[Completion] = []
            thoughts = Thoughts(request.division)
            try:
                async with aclosing(self._generation.steps(request)) as steps:
                    async for step in steps:
                        under_way.lease.release()
                        seen.extend(step)
                        for completion in step:
                            yield sse(delta(thoughts.divide(completion)))
            except ServiceError as error:
                if not seen:
                    raise
                yield sse(error.body(self._id))
            else:
                yield sse(stream_end(request, seen, self._model, self._align))
            yield DONE

    def _under_way(self) -> AbstractContextManager[UnderWay]:
        each = max(self._plan.beam_width, self._plan.sampling.get("n", 1))
        prompts = len(self._prompts)
        return self._deployment.request(self._record, prompts, each, self._parameters.adapter)

    @asynccontextmanager
    async def _items(
        self, under_way: UnderWay, *, streaming: bool = False
    ) -> AsyncIterator[list[Item]]:
        """A task for every prompt; at the end those that still run are cancelled.

        Encoding thousands at once would hold up all other requests.
        """
        items: list[Item] = []
        ids = item_ids(self._id, len(self._prompts))
        characters = 0
        try:
            for index, request_id in enumerate(ids):
                answer = self._item(index, request_id, under_way.lease, streaming=streaming)
                items.append(asyncio.create_task(answer))
                items[-1].add_done_callback(lambda _: under_way.ticket.leave_one())
                characters += len(self._prompts[index])
                if index % TOGETHER == TOGETHER - 1 or characters > CHARACTERS_TOGETHER:
                    characters = 0
                    await asyncio.sleep(0)
            yield items
        finally:
            for item in items:
                item.cancel()

    async def _item(
        self, index: int, request_id: str, lease: Lease, *, streaming: bool
    ) -> ListItem:
        """One result of a list. What is wrong with this prompt alone does not sink the rest.

        A dead engine does, unless a stream has begun: it is an item's failure then.
        """
        try:
            request = await self._request(index, request_id, lease)
            return {"index": index, **await self._whole(request)}
        except ServiceError as error:
            if error.status >= 500 and error.error_type != "timeout" and not streaming:
                raise
            return failed_item(index, error, request_id, self._model)

    async def _whole(self, request: GenerationRequest) -> Result:
        completions: list[Completion] = []
        async with aclosing(self._generation.steps(request)) as steps:
            async for step in steps:
                completions.extend(step)
        return whole_result(request, completions, self._model, self._align)

    def _align(self, completion: Completion, request: GenerationRequest) -> Completion:
        tokenizer = self._deployment.engine.tokenizer
        return apart(aligned(completion, request, tokenizer), request.division, tokenizer)

    async def _request(
        self, index: int, request_id: str, lease: Lease, *, stream: bool = False
    ) -> GenerationRequest:
        parameters, engine = self._parameters, self._deployment.engine
        ids = await self._encoder.encode_aside(self._prompts[index], self._plan.chat)
        return GenerationRequest(
            request_id,
            ids,
            self._plan.for_prompt(len(ids), engine.max_model_len),
            stream,
            lease.adapter,
            parameters.priority,
            self._record.trace,
            self._division,
            self._record.owner,
        )


def _refuse_repeated(prompts: int, size: int) -> None:
    """What stands around the prompts, `size` characters, is rendered with each of them."""
    most = most_repeated(prompts)
    if prompts > 1 and size > most:
        raise InvalidRequestError(
            f"system and history have {size} characters, the most for {prompts} prompts is {most}:"
            " send fewer prompts at once",
            "parameters",
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
