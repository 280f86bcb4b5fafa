"""Adapters loaded and unloaded while the service runs."""

from pathlib import Path
from typing import Any

from fastapi import APIRouter

from service.adapters import Adapter
from service.deployment import Deployment
from service.schemas import LoadAdapterRequest


def admin_router(deployment: Deployment) -> APIRouter:
    """/admin/adapters; the gate lets only administrators through."""
    router = APIRouter(prefix="/admin")
    adapters, lifecycle = deployment.adapters, deployment.lifecycle

    @router.get("/adapters", summary="Adapters that requests may name")
    async def served() -> dict[str, Any]:
        return {"adapters": [_told(adapter) for adapter in adapters]}

    @router.post("/adapters", summary="Load an adapter from a directory of the server")
    async def load(body: LoadAdapterRequest) -> dict[str, str]:
        lifecycle.refuse_unless_ready()
        return _told(await adapters.load(body.name, Path(body.path)))

    @router.delete("/adapters/{name}", summary="Unload it once the requests that use it have ended")
    async def unload(name: str) -> dict[str, str]:
        lifecycle.refuse_unless_ready()
        await adapters.unload(name)
        return {"unloaded": name}

    return router


def _told(adapter: Adapter) -> dict[str, str]:
    return {"name": adapter.name, "path": str(adapter.path)}
