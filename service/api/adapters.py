"""Adapters loaded and unloaded while the service runs."""

from pathlib import Path

from fastapi import APIRouter

from service.adapter import Adapter
from service.api.answers import AdapterAnswer, AdapterList, Unloaded
from service.api.openapi import refusals
from service.api.requests import LoadAdapterRequest
from service.deployment import Deployment


def admin_router(deployment: Deployment) -> APIRouter:
    """/admin/adapters; the gate lets only administrators through."""
    router = APIRouter(prefix="/admin")
    adapters, lifecycle = deployment.adapters, deployment.lifecycle

    @router.get("/adapters", summary="Adapters that requests may name", responses=refusals(404))
    async def served() -> AdapterList:
        return {"adapters": [_answer(adapter) for adapter in adapters]}

    @router.post(
        "/adapters",
        summary="Load an adapter from a directory of the server",
        responses=refusals(400, 404, 503),
    )
    async def load(body: LoadAdapterRequest) -> AdapterAnswer:
        lifecycle.require_ready()
        return _answer(await adapters.load(body.name, Path(body.path)))

    @router.delete(
        "/adapters/{name}",
        summary="Unload it once the requests that use it have ended",
        responses=refusals(404, 503),
    )
    async def unload(name: str) -> Unloaded:
        lifecycle.require_ready()
        await adapters.unload(name)
        return {"unloaded": name}

    return router


def _answer(adapter: Adapter) -> AdapterAnswer:
    return {"name": adapter.name, "path": str(adapter.path)}
