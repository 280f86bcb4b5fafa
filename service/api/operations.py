"""The small routes beside /generate: tokens of a text and back, abort, load."""

from fastapi import APIRouter, Request

from service.api.answers import Aborted, Detokenized, Load, Tokens
from service.api.openapi import refusals
from service.api.requests import AbortRequest, DetokenizeRequest, TokenizeRequest
from service.deployment import Deployment
from service.errors import InvalidRequestError
from service.generation.plan import to_chat
from service.request_record import record_of


def tokens_router(deployment: Deployment) -> APIRouter:
    """/tokenize and /detokenize."""
    router = APIRouter()
    engine, lifecycle = deployment.engine, deployment.lifecycle

    @router.post(
        "/tokenize", summary="The token ids that the model would read", responses=refusals(400, 503)
    )
    async def tokenize(body: TokenizeRequest) -> Tokens:
        encoder = lifecycle.require_ready().encoder
        fields = body.model_dump(exclude={"prompt"}, exclude_unset=True, exclude_none=True)
        chat = to_chat(deployment.settings.default_parameters | fields, fields)
        encoder.template.check(chat)
        ids = await encoder.encode_aside(body.prompt, chat)
        return {"tokens": ids, "count": len(ids), "max_model_len": engine.max_model_len}

    @router.post(
        "/detokenize",
        summary="The text of token ids, special tokens included",
        responses=refusals(400, 503),
    )
    async def detokenize(body: DetokenizeRequest) -> Detokenized:
        encoder = lifecycle.require_ready().encoder
        beyond = [token_id for token_id in body.tokens if token_id >= engine.vocab_size]
        if beyond:
            raise InvalidRequestError(
                f"{beyond[0]} is outside the vocabulary (0 to {engine.vocab_size - 1})", "tokens"
            )
        if len(body.tokens) > engine.max_model_len:
            raise InvalidRequestError(
                f"{len(body.tokens)} tokens, at most {engine.max_model_len}: send them in parts",
                "tokens",
            )
        return {"prompt": await encoder.decode_aside(body.tokens)}

    return router


def running_router(deployment: Deployment) -> APIRouter:
    """/abort and /get_load: about the requests that run."""
    router = APIRouter()

    @router.post(
        "/abort",
        summary="End a running request; it answers with what it has",
        responses=refusals(400),
    )
    async def abort(body: AbortRequest, http: Request) -> Aborted:
        aborted = await deployment.abort(record_of(http.scope).owner + body.request_id)
        deployment.metrics.aborts.inc(bool(aborted))
        return {"request_id": body.request_id, "aborted": aborted}

    @router.get("/get_load", summary="Sequences running and waiting: prompts by outputs or beams")
    async def get_load() -> Load:
        return {"load": deployment.admission.sequences}

    return router
