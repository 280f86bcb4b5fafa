"""vLLM's own OpenAI routes, mounted as they are on our engine."""

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.types import ASGIApp, Receive, Scope, Send
from vllm.entrypoints.launchers.api_server.app_state import init_app_state
from vllm.entrypoints.launchers.app import build_app
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.entrypoints.openai.responses.protocol import ResponsesRequest
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm.v1.engine.exceptions import EngineDeadError

from service.engine.protocol import OPENAI_ROUTES
from service.engine.tokenizers import limit_pooled_caches
from service.errors import ServiceError, answer

TASKS = ("generate",)


async def openai_app(
    llm: Any, model_name: str, adapters: dict[str, Any], failure: Callable[[], ServiceError]
) -> ASGIApp:
    """An application that answers /v1/….

    `adapters` (vLLM's LoRARequest by name) is read at each request: they are models too. `failure`
    says what a dead engine is answered with.
    """

    async def on_dead_engine(request: Request, error: Exception) -> JSONResponse:
        return answer(failure(), request.scope)

    args = make_arg_parser(FlexibleArgumentParser()).parse_args([])
    args.model = llm.model_config.model
    args.served_model_name = [model_name]
    args.allowed_origins = []  # vLLM's default lets every web page in
    args.disable_fastapi_docs = True
    config = llm.vllm_config.structured_outputs_config
    args.structured_outputs_config.reasoning_parser = config.reasoning_parser
    app: FastAPI = build_app(args, TASKS, llm.model_config)
    await init_app_state(llm, app.state, args, TASKS)
    models = app.state.openai_serving_models
    models.lora_requests = adapters
    _hide_paths(models)
    app.add_api_route("/v1/openapi.json", _document(app), include_in_schema=False)
    limit_pooled_caches(llm.get_tokenizer())
    # vLLM's own handler would look for vLLM's own server, to end it
    app.add_exception_handler(EngineDeadError, on_dead_engine)
    app.middleware_stack = app.build_middleware_stack()  # vLLM has built it already
    return _refusing_bad_items(app)


def _refusing_bad_items(app: ASGIApp) -> ASGIApp:
    """Each bad item of /v1/responses' input costs vLLM 230 errors: it sees none of them."""

    async def routes(scope: Scope, receive: Receive, send: Send) -> None:
        _check_input(scope["state"].get("input", ()))
        await app(scope, receive, send)

    return routes


def _check_input(items: list[Any]) -> None:
    for number, item in enumerate(items):
        try:
            ResponsesRequest.model_validate({"input": [item]})
        except ValidationError:
            raise ValueError(f"input.{number}: there is no such kind of item") from None


def _hide_paths(models: Any) -> None:
    """/v1/models names the directories of the server, which are nobody's business."""
    list_models = models.show_available_models

    async def without_paths() -> Any:
        listed = await list_models()
        for card in listed.data:
            card.root = card.id
        return listed

    models.show_available_models = without_paths


def _document(app: FastAPI) -> Callable[[], Awaitable[JSONResponse]]:
    """The OpenAPI document of what is served of vLLM's routes."""

    async def document() -> JSONResponse:
        whole = app.openapi()
        served = {
            path: {m: each for m, each in item.items() if path in OPENAI_ROUTES.get(m.upper(), ())}
            for path, item in whole["paths"].items()
        }
        paths = {path: item for path, item in served.items() if item}
        return JSONResponse({**whole, "paths": paths})

    return document
