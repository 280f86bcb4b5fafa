"""Routes about the state of the service and about what it serves."""

from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import JSONResponse, PlainTextResponse

from service.api.answers import (
    Fingerprints,
    Info,
    Quantization,
    StateAnswer,
    Switch,
    Thoughts,
    Versions,
)
from service.api.openapi import Responses, refusals
from service.deployment import Deployment
from service.engine.fingerprint import combined
from service.engine.thinking.marks import Thinking
from service.generation.plan import DEFAULT_PARAMETERS
from service.lifecycle import Lifecycle, State
from service.model_directory.quantised import read_quantised
from service.versions import installed

EXPOSITION = "text/plain; version=0.0.4"
"""The format of Prometheus' metrics."""
STATES: Responses = {
    200: {"model": StateAnswer, "description": "Yes"},
    503: {"model": StateAnswer, "description": "No"},
}


def probe_router(lifecycle: Lifecycle) -> APIRouter:
    """Routes for load balancers and orchestrators."""
    router = APIRouter()

    @router.get("/livez", summary="200 while the process is worth keeping", responses=STATES)
    async def livez() -> JSONResponse:
        return _state_answer(lifecycle, healthy=lifecycle.state is not State.DEAD)

    @router.get(
        "/readyz", summary="200 once a token was generated, until draining", responses=STATES
    )
    @router.get("/health", summary="as /readyz", responses=STATES)
    async def readyz() -> JSONResponse:
        return _state_answer(lifecycle, healthy=lifecycle.state is State.READY)

    @router.get("/is_ready", summary="JSON true or false")
    async def is_ready() -> bool:
        return lifecycle.state is State.READY

    return router


def info_router(deployment: Deployment) -> APIRouter:
    """/info, /version and /metrics."""
    router = APIRouter()
    engine, settings = deployment.engine, deployment.settings

    @router.get("/info", summary="the model and its limits", responses=refusals(503))
    async def info() -> Info:
        ready = deployment.lifecycle.require_ready()
        defaults = {**DEFAULT_PARAMETERS, **settings.default_parameters}
        fingerprints: Fingerprints = {
            "model": ready.fingerprint,
            "parameters": combined(defaults, settings.presets),
            "adapters": {one.name: one.fingerprint for one in deployment.adapters},
        }
        return {
            "model": settings.model_name,
            "fingerprint": combined(fingerprints),
            "fingerprints": fingerprints,
            "adapters": deployment.adapters.names,
            "dtype": engine.dtype,
            "dtype_reason": engine.dtype_reason,
            "quantization": _quantization(settings.model),
            "max_model_len": engine.max_model_len,
            "vocab_size": engine.vocab_size,
            "chat_template": ready.encoder.has_template,
            "thinking": _thoughts(ready.encoder.template.thinking),
            "default_parameters": defaults,
            "presets": settings.presets,
            "max_prompts": settings.max_prompts,
        }

    @router.get("/version", summary="versions of the service and its engine")
    async def versions() -> Versions:
        return {"mergeline": installed("mergeline"), "vllm": engine.version}

    @router.get("/metrics", summary="Prometheus metrics", response_class=PlainTextResponse)
    async def prometheus() -> PlainTextResponse:
        return PlainTextResponse(deployment.metrics.render(), media_type=EXPOSITION)

    return router


def _quantization(model: Path) -> Quantization | None:
    quantised = read_quantised(model)
    if quantised is None:
        return None
    return {
        "method": quantised.method,
        "scheme": quantised.scheme,
        "bits": quantised.bits,
        "activation_bits": quantised.activation_bits,
    }


def _thoughts(thinking: Thinking) -> Thoughts | None:
    if not thinking.exists:
        return None
    switch: Switch = {"on": thinking.arguments(on=True), "off": thinking.arguments(on=False)}
    return {
        "switch": switch if thinking.switch else None,
        "default": thinking.on_by_default,
        "marks": [*thinking.marks],
    }


def _state_answer(lifecycle: Lifecycle, *, healthy: bool) -> JSONResponse:
    answer = {"state": lifecycle.state, "failure": lifecycle.failure}
    return JSONResponse(answer, 200 if healthy else 503)
