"""vLLM's own OpenAI routes, mounted as they are on our engine."""

from inspect import getclosurevars
from queue import Queue
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.types import ASGIApp
from vllm.entrypoints.launchers.api_server.app_state import init_app_state
from vllm.entrypoints.launchers.app import build_app
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm.v1.engine.exceptions import EngineDeadError

from service.errors import ENGINE_GONE, UnavailableError, answer
from service.prompt import keep_few_words

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
    keep_few_words_in_pool(llm.get_tokenizer())
    # vLLM's own handler would look for vLLM's own server, to end it
    app.add_exception_handler(EngineDeadError, _on_dead_engine)
    app.middleware_stack = app.build_middleware_stack()  # vLLM has built it already
    return app


def keep_few_words_in_pool(tokenizer: Any) -> None:
    """Bound the memory of the copies that vLLM encodes with, now and later.

    It hides them in a closure, and makes one more whenever all are in use. Its own tokenizers in
    Python have none.
    """
    borrow = getclosurevars(type(tokenizer).encode).nonlocals.get("_borrow_from_pool")
    if borrow is None:
        return
    pool: Queue[Any] = getclosurevars(borrow.__wrapped__).nonlocals["tokenizer_pool"]
    give_back = pool.put

    def put(copy: Any) -> None:
        keep_few_words(copy.backend_tokenizer)
        give_back(copy)

    pool.put = put  # type: ignore[method-assign,assignment]
    with borrow():
        pass  # the first one is there already


async def _on_dead_engine(request: Request, error: Exception) -> JSONResponse:
    return answer(UnavailableError(ENGINE_GONE), request.scope)
