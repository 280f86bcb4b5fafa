"""What the settings mean for vLLM: its environment and its engine's arguments."""

import logging
import os
from pathlib import Path
from typing import Any

from service.engine.thinking import PARSER
from service.machine.cores import compute_in_engine_process
from service.machine.memory import keep_freed_memory
from service.machine.number_format import NumberFormat, on_cpu
from service.machine.placement import Placement
from service.model_directory.quantised import QUANTIZE, UnservableError, read_quantised
from service.model_directory.thoughts import marks_of
from service.parameters import MAX_LOGPROBS
from service.settings import Settings
from service.versions import built_for_cpu

logger = logging.getLogger("mergeline")
CPU_SEQUENCES = 256  # in one step; vLLM's own server takes 128 on a CPU


def set_environment(settings: Settings, placement: Placement) -> None:
    """Variables that vLLM reads when it is imported, here and in the processes it starts."""
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(settings.cpu_kvcache_gib))
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    # vLLM forks where it can: out of a process with many threads, and without loading plugins
    # anew, so that nothing would end the engine after a server that was killed (orphans.py)
    os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
    if settings.dtype == "float32":  # else Triton's attention multiplies in TF32, on a GPU
        os.environ.setdefault("TRITON_F32_DEFAULT", "ieee")
    if placement.marks:  # ChatGLM-6B's positions were tried with the first runner only
        os.environ.setdefault("VLLM_USE_V2_MODEL_RUNNER", "0")
    if built_for_cpu():
        _prepare_cpu(settings)


def number_format(settings: Settings) -> NumberFormat:
    """The `dtype` for vLLM; the log says what `auto` means on a CPU."""
    if settings.dtype != "auto":
        return NumberFormat(settings.dtype, "set by --dtype")
    if not _platform().is_cpu():
        return NumberFormat("auto", "as stored, 16 bits for float32")
    chosen = on_cpu(settings.model, settings.cpu_kvcache_gib)
    level = logging.WARNING if chosen.is_slow else logging.INFO
    logger.log(level, "dtype %s: %s", chosen.dtype, chosen.reason)
    return chosen


def engine_args(settings: Settings, placement: Placement, dtype: str) -> dict[str, Any]:
    """Arguments of vLLM's AsyncEngineArgs, by its own names; `dtype` is number_format's."""
    from vllm.config import StructuredOutputsConfig

    length, gpus = settings.max_model_len, settings.tensor_parallel_size
    platform = _platform()
    cpu = platform.is_cpu()
    if not cpu:
        _refuse_float32_adapters(settings)
        _refuse_int8_on(platform, settings.model)
    return {
        "model": str(settings.model),
        "served_model_name": settings.model_name,
        "dtype": dtype,
        "kv_cache_dtype": settings.kv_cache_dtype,
        "max_model_len": length and length + len(placement.placeholders),
        # on a GPU as `vllm serve`: its default follows the card
        "max_num_seqs": settings.max_num_seqs or (CPU_SEQUENCES if cpu else None),
        "max_logprobs": MAX_LOGPROBS,
        "scheduling_policy": "priority",
        # compact JSON: where white space is free, a small model may write nothing else
        "structured_outputs_config": StructuredOutputsConfig(
            backend="guidance",
            disable_any_whitespace=True,
            reasoning_parser=PARSER if marks_of(settings.model) else "",
        ),
        "tensor_parallel_size": gpus,
        # with one GPU (or a CPU) a worker process of its own is only a detour
        "distributed_executor_backend": "uni" if gpus == 1 else None,
        **_node_settings(settings),
        "gpu_memory_utilization": settings.gpu_memory_utilization,
        "enforce_eager": cpu if settings.enforce_eager is None else settings.enforce_eager,
        "seed": settings.engine_seed,
        "generation_config": "vllm",  # generation_config.json must not change sampling
        "trust_remote_code": False,
        "enable_log_requests": False,  # prompts stay out of the log
        "otlp_traces_endpoint": settings.otlp_traces_endpoint,
        **_lora_settings(settings),
        **settings.engine_args,
    }


def _platform() -> Any:
    from vllm.platforms import current_platform

    return current_platform


def _refuse_float32_adapters(settings: Settings) -> None:
    if settings.adapter_slots and settings.dtype == "float32":
        raise ValueError("on a GPU adapters need 16 bits: vLLM has no LoRA in float32")


def _refuse_int8_on(platform: Any, model: Path) -> None:
    """Blackwell's lack of a kernel would show in the middle of loading (vllm#54311)."""
    quantised = read_quantised(model)
    is_int8 = quantised is not None and quantised.is_int8
    if is_int8 and platform.has_device_capability(100):
        raise UnservableError(
            "vLLM has no int8 kernel for Blackwell: quantise the original to fp8"
            f" ({QUANTIZE} --scheme fp8)"
        )


def _prepare_cpu(settings: Settings) -> None:
    keep_freed_memory()
    if settings.tensor_parallel_size == 1:
        compute_in_engine_process()
    # or the first request for logprobs would hold all up: 10 s of compiling
    if settings.enforce_eager is not False:
        os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
    # vLLM sets it too, but later than torch is imported for the engine's process (ahead.py)
    os.environ.setdefault("TORCHINDUCTOR_CPP_DYNAMIC_THREADS", "1")


def _node_settings(settings: Settings) -> dict[str, Any]:
    if settings.nodes == 1:
        return {}
    return {
        "nnodes": settings.nodes,
        "node_rank": settings.node_rank,
        "master_addr": settings.leader_address,
        "distributed_executor_backend": "mp",
    }


def _lora_settings(settings: Settings) -> dict[str, Any]:
    slots = settings.adapter_slots
    if not slots:
        return {}
    return {
        "enable_lora": True,
        # one more than there are: on a CPU vLLM takes the last slot for "no adapter"
        "max_loras": slots + 1,
        "max_lora_rank": settings.lora_rank,
    }
