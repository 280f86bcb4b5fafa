"""The small routes beside /generate: tokens of a text and back, abort, load."""

from fastapi import APIRouter

from service.api.answers import Aborted, Detokenized, Load, Tokens
from service.api.openapi import refusals
from service.api.requests import AbortRequest, DetokenizeRequest, TokenizeRequest
from service.deployment import Deployment
from service.errors import InvalidRequestError


def tokens_router(deployment: Deployment) -> APIRouter:
    """/tokenize and /detokenize."""
    router = APIRouter()
    engine, lifecycle = deployment.engine, deployment.lifecycle

    @router.post(
        "/tokenize", summary="The token ids that the model would read", responses=refusals(400, 503)
    )
    async def tokenize(body: TokenizeRequest) -> Tokens:
        ids = lifecycle.require_ready().encoder.encode(body.prompt, raw=body.raw)
        return {"tokens": ids, "count": len(ids), "max_model_len": engine.max_model_len}

    @router.post(
        "/detokenize",
        summary="The text of token ids, special tokens included",
        responses=refusals(400, 503),
    )
    async def detokenize(body: DetokenizeRequest) -> Detokenized:
        lifecycle.require_ready()
        beyond = [token_id for token_id in body.tokens if token_id >= engine.vocab_size]
        if beyond:
            raise InvalidRequestError(
                f"{beyond[0]} is outside the vocabulary (0 to {engine.vocab_size - 1})", "tokens"
            )
        return {"prompt": engine.tokenizer.decode(body.tokens)}

    return router


def running_router(deployment: Deployment) -> APIRouter:
    """/abort and /get_load: about the requests that run."""
    router = APIRouter()

    @router.post(
        "/abort",
        summary="End a running request; it answers with what it has",
        responses=refusals(400),
    )
    async def abort(body: AbortRequest) -> Aborted:
        aborted = await deployment.abort(body.request_id)
        deployment.metrics.aborts.inc(bool(aborted))
        return {"request_id": body.request_id, "aborted": aborted}

    @router.get("/get_load", summary="Prompts running and waiting")
    async def get_load() -> Load:
        return {"load": deployment.admission.prompts}

    return router
