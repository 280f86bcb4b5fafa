"""On a CPU: the model computes in the engine's process, and leaves a core to the server."""

import os
from contextlib import suppress
from pathlib import Path

_NODES = Path("/sys/devices/system/node/possible")
_SIBLINGS = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"


def compute_in_engine_process() -> None:
    """Keep vLLM from starting a worker process beside the engine's: another import, another hop.

    vLLM does so on a CPU to bind threads to cores. That pays where memory is near to some cores
    and far from others, and is left alone there, and where VLLM_CPU_OMP_THREADS_BIND asks for it.
    """
    if "VLLM_CPU_OMP_THREADS_BIND" in os.environ or _read(_NODES, "0") != "0":
        return
    # nothing else depends on it here: AsyncLLM's engine always has a process of its own
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, _physical_cores() - 1)))


def bind(engine: int) -> None:
    """Keep the engine's only computing thread on one core; `engine` is its process.

    vLLM binds the workers that it starts too. A thread that moves about finds cold caches: 3 % of
    the throughput of a small model on two cores. The engine's other threads stay free.
    """
    alone = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "OMP_NUM_THREADS": "1"}
    if any(os.environ.get(name) != value for name, value in alone.items()):
        return
    allowed = _allowed()
    if len(allowed) > 1 and hasattr(os, "sched_setaffinity"):
        with suppress(OSError):  # where a sandbox forbids it, it goes on unbound
            os.sched_setaffinity(engine, {max(allowed)})  # a process's number is its main thread's


def _physical_cores() -> int:
    return len({_read(Path(_SIBLINGS.format(cpu)), str(cpu)) for cpu in _allowed()})


def _allowed() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _read(path: Path, default: str) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return default
