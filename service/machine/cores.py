"""On a CPU: the model computes in the engine's process, and leaves a core to the server."""

import logging
import math
import os
import threading
import time
from contextlib import suppress
from pathlib import Path

from service.machine.cgroups import cpu_quota, read

logger = logging.getLogger("mergeline")
LOOK_EVERY_S = 2.0
CROWDED = 0.1  # of the time that a bound thread was runnable it waited for its core
_NODES = Path("/sys/devices/system/node/possible")
_SIBLINGS = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"


def compute_in_engine_process() -> None:
    """Keep vLLM from starting a worker process beside the engine's: another import, another hop.

    vLLM does so on a CPU to bind threads to cores. That pays where memory is near to some cores
    and far from others, and is left alone there (but for a quota: vLLM would bind a thread to every
    core, and they would stand still most of the time), and where VLLM_CPU_OMP_THREADS_BIND sets
    for it.
    """
    several_nodes = (read(_NODES) or "0") != "0"
    cores, quota = _physical_cores(), cpu_quota()
    if "VLLM_CPU_OMP_THREADS_BIND" in os.environ or (several_nodes and quota >= cores):
        return
    # nothing else depends on it here: AsyncLLM's engine always has a process of its own
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    threads = os.environ.setdefault("OMP_NUM_THREADS", str(engine_threads(cores, quota)))
    logger.info("threads of the engine: %s (cores: %d, quota: %g CPUs)", threads, cores, quota)


def engine_threads(cores: int, quota: float) -> int:
    """Threads that compute the model: one less than there are CPUs, and one at the least.

    Of a quota only whole CPUs count: a thread that is stopped in the middle holds up all others.
    """
    return max(1, math.floor(min(cores, quota)) - 1)


def bind(engine: int) -> None:
    """Keep the engine's only computing thread on one core; `engine` is its process.

    vLLM binds the workers that it starts too. A thread that moves about finds cold caches: 3 % of
    the throughput of a small model on two cores. The engine's other threads stay free, and so does
    this one as soon as something else needs that core.
    """
    alone = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "OMP_NUM_THREADS": "1"}
    if any(os.environ.get(name) != value for name, value in alone.items()):
        return
    allowed = _allowed()
    if len(allowed) > 1 and hasattr(os, "sched_setaffinity"):
        with suppress(OSError):  # where a sandbox forbids it, it goes on unbound
            os.sched_setaffinity(engine, {max(allowed)})  # a process's number is its main thread's
            watch = threading.Thread(target=_free_when_crowded, args=(engine, allowed), daemon=True)
            watch.start()


def _free_when_crowded(engine: int, allowed: set[int]) -> None:
    """Let the thread go where there is room once another process shares its core."""
    ran, waited = _scheduled(engine)
    while True:
        time.sleep(LOOK_EVERY_S)
        now_ran, now_waited = _scheduled(engine)
        if not now_ran:
            return  # it has ended
        runnable = now_ran + now_waited - ran - waited
        if runnable > LOOK_EVERY_S * 1e9 / 10 and now_waited - waited > CROWDED * runnable:
            with suppress(OSError):
                os.sched_setaffinity(engine, allowed)
            return
        ran, waited = now_ran, now_waited


def _scheduled(process: int) -> tuple[int, int]:
    """Nanoseconds that a process's main thread has run, and has waited for a core."""
    words = read(Path(f"/proc/{process}/schedstat")).split()
    return (int(words[0]), int(words[1])) if words else (0, 0)


def _physical_cores() -> int:
    return len({read(Path(_SIBLINGS.format(cpu))) or str(cpu) for cpu in _allowed()})


def _allowed() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))
