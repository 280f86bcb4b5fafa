"""/v1: the engine's own OpenAI routes, behind our gate, admission and drain."""

from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from service.deployment import Deployment
from service.errors import ServiceError, answer


class V1:
    """An ASGI application that hands requests on to the engine's routes."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        inner = {key: scope[key] for key in scope if key not in ("app", "router", "endpoint")}
        inner["state"] = {}

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start" and "route" in inner:
                scope["route"] = inner["route"]  # what metrics and the log call it
            await send(message)

        try:
            await self._serve(inner, receive, named)
        except ServiceError as error:
            await answer(error, scope)(scope, receive, send)

    async def _serve(self, inner: Scope, receive: Receive, send: Send) -> None:
        deployment = self._deployment
        routes = deployment.lifecycle.require_ready().openai_routes
        if inner["method"] != "POST":
            await routes(inner, receive, send)
            return
        with deployment.lifecycle.request(), deployment.admission.enter(1):
            await routes(inner, receive, send)


def v1_route(deployment: Deployment) -> Route:
    """The route of everything under /v1."""
    return Route("/v1/{rest:path}", V1(deployment), methods=None, include_in_schema=False)
