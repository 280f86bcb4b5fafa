"""vLLM's own OpenAI routes, mounted as they are on our engine."""

from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.types import ASGIApp
from vllm.entrypoints.launchers.api_server.app_state import init_app_state
from vllm.entrypoints.launchers.app import build_app
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm.v1.engine.exceptions import EngineDeadError

from service.engine.tokenizers import limit_pooled_caches
from service.errors import ENGINE_GONE, UnavailableError, answer

TASKS = ("generate",)


async def openai_app(llm: Any, model_name: str, adapters: dict[str, Any]) -> ASGIApp:
    """An application that answers /v1/….

    `adapters` (vLLM's LoRARequest by name) is read at each request: they are models too.
    """
    args = make_arg_parser(FlexibleArgumentParser()).parse_args([])
    args.model = llm.model_config.model
    args.served_model_name = [model_name]
    args.allowed_origins = []  # vLLM's default lets every web page in
    args.disable_fastapi_docs = True
    app: FastAPI = build_app(args, TASKS, llm.model_config)
    await init_app_state(llm, app.state, args, TASKS)
    app.state.openai_serving_models.lora_requests = adapters
    limit_pooled_caches(llm.get_tokenizer())
    # vLLM's own handler would look for vLLM's own server, to end it
    app.add_exception_handler(EngineDeadError, _on_dead_engine)
    app.middleware_stack = app.build_middleware_stack()  # vLLM has built it already
    return app


async def _on_dead_engine(request: Request, error: Exception) -> JSONResponse:
    return answer(UnavailableError(ENGINE_GONE), request.scope)
