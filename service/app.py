"""The FastAPI application: `create_app(engine, settings)` wires routes, limits and errors."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from service.backend import Engine
from service.errors import InvalidRequestError, NotFoundError, ServiceError
from service.gate import Gate
from service.generate import generate_router
from service.health import info_router, probe_router
from service.lifecycle import Lifecycle
from service.metrics import Metrics
from service.page import page_router
from service.settings import Settings
from service.validation import first_problem

logger = logging.getLogger("mergeline")


def create_app(engine: Engine, settings: Settings) -> FastAPI:
    """An app that loads `engine` when it starts; `app.state.lifecycle` tells how far it is."""
    metrics = Metrics()
    lifecycle = Lifecycle(engine, metrics)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        life = asyncio.create_task(lifecycle.run())
        yield
        life.cancel()
        engine.shutdown()

    app = FastAPI(title="mergeline", lifespan=lifespan)
    app.state.lifecycle = lifecycle
    app.include_router(generate_router(engine, settings, lifecycle, metrics))
    app.include_router(probe_router(lifecycle))
    app.include_router(info_router(engine, settings, lifecycle, metrics))
    app.include_router(page_router())
    app.add_middleware(Gate, max_body_bytes=settings.max_body_bytes, metrics=metrics)
    app.add_exception_handler(ServiceError, _on_service_error)
    app.add_exception_handler(RequestValidationError, _on_invalid_body)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(Exception, _on_bug)
    return app


async def _on_service_error(request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, ServiceError):
        raise error
    return JSONResponse(error.body(request.state.request_id), error.status, error.headers())


async def _on_invalid_body(request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, RequestValidationError):
        raise error
    return await _on_service_error(request, first_problem(error.errors()))


async def _on_http_error(request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, HTTPException):
        raise error
    if error.status_code in (404, 405):
        message = f"{request.method} {request.url.path}: {error.detail}; GET /docs lists all routes"
        return await _on_service_error(request, NotFoundError(message, error.status_code))
    return await _on_service_error(request, InvalidRequestError(str(error.detail), "body"))


async def _on_bug(request: Request, error: Exception) -> JSONResponse:
    logger.error("request %s failed", request.state.request_id, exc_info=error)
    return await _on_service_error(request, ServiceError("internal error; the log has details"))
