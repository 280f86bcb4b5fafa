"""The FastAPI application: `create_app(engine, settings)` wires routes, limits and errors."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Match

from service.api.adapters import admin_router
from service.api.generate import generate_router
from service.api.health import info_router, probe_router
from service.api.openai import v1_route
from service.api.openapi import complete
from service.api.operations import running_router, tokens_router
from service.deployment import Deployment
from service.engine.protocol import Engine
from service.errors import (
    InvalidRequestError,
    NotFoundError,
    ServiceError,
    WrongMethodError,
    answer,
    first_problem,
)
from service.generation.adapter_registry import Adapters
from service.generation.admission import Admission
from service.http.gate import Gate
from service.http.tracing import tracing_to
from service.lifecycle import Lifecycle
from service.metrics import Metrics
from service.page import page_router
from service.page.docs import docs_router
from service.settings import Settings

logger = logging.getLogger("mergeline")


def create_app(engine: Engine, settings: Settings) -> FastAPI:
    """An app that loads `engine` when it starts; `app.state.lifecycle` knows how far it is."""
    metrics = Metrics()
    tracing = tracing_to(settings.otlp_traces_endpoint)
    adapters = Adapters(settings, engine)
    lifecycle = Lifecycle(engine, adapters, metrics, settings)
    # called only once the engine is ready: its own default is known then
    admission = Admission(lambda: engine.max_num_seqs + settings.max_queued_prompts, metrics)
    deployment = Deployment(engine, settings, metrics, adapters, lifecycle, admission)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        life = asyncio.create_task(lifecycle.run())
        yield
        life.cancel()
        engine.shutdown()
        tracing.shutdown()

    app = FastAPI(title="mergeline", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.lifecycle = lifecycle
    for router in (
        generate_router(deployment),
        tokens_router(deployment),
        running_router(deployment),
        probe_router(lifecycle),
        info_router(deployment),
        admin_router(deployment),
        page_router(),
        docs_router(),
    ):
        app.include_router(router)
    app.router.routes.append(v1_route(deployment))
    complete(app, settings)
    gate = {"settings": settings, "metrics": metrics, "tracing": tracing}
    app.add_middleware(Gate, **gate, longest_text=lifecycle.longest_text)  # type: ignore[arg-type]
    _add_cors(app, settings)
    app.add_exception_handler(ServiceError, _on_service_error)
    app.add_exception_handler(RequestValidationError, _on_invalid_body)
    app.add_exception_handler(HTTPException, _on_http_error)
    return app


def _add_cors(app: FastAPI, settings: Settings) -> None:
    """Before the gate: a browser's preflight request carries no key."""
    origins = settings.cors_origins.split()
    if origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=origins, allow_methods=["*"], allow_headers=["*"]
        )


async def _on_service_error(request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, ServiceError):
        raise error
    return answer(error, request.scope)


async def _on_invalid_body(request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, RequestValidationError):
        raise error
    return await _on_service_error(request, first_problem(error.errors()))


async def _on_http_error(request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, HTTPException):
        raise error
    message = f"{request.method} {request.url.path}: {error.detail}; GET /docs lists all routes"
    if error.status_code == 404:
        return await _on_service_error(request, NotFoundError(message))
    if error.status_code == 405:
        return await _on_service_error(request, WrongMethodError(message, _methods(request)))
    return await _on_service_error(request, InvalidRequestError(str(error.detail), "body"))


def _methods(request: Request) -> list[str]:
    """Those of all routes with this path: starlette's own Allow header has the first's alone."""
    matching = (
        route for route in request.app.routes if route.matches(request.scope)[0] is not Match.NONE
    )
    return sorted({method for route in matching for method in route.methods or ()})
