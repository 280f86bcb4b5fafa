"""On a CPU: the engine's process has vLLM imported already when it begins.

vLLM begins that process when the server's has imported all, which takes ten seconds, and would
take them again. Python's fork server is a process of one thread that imports while the server
does; the engine's process is a fork of it.
"""

import logging
import multiprocessing
import os
import re
import signal
from importlib.util import find_spec
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

logger = logging.getLogger("mergeline")
AT_BEGINNING = ("LD_PRELOAD", "OMP_", "GOMP_", "KMP_", "MALLOC_")
"""Variables that a process reads once, when it begins."""


class ImportsAhead:
    """The fork server, started when this is made, in the main thread: it ends with that thread.

    The environment has to be that of the engine's process as far as AT_BEGINNING goes.
    """

    def __init__(self) -> None:
        preload_libraries()
        # NumPy's is the only library that starts threads when it is imported
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        self._environment = _at_beginning()
        forkserver.set_forkserver_preload(["service.engine.forked"])
        forkserver.ensure_running()

    def use(self) -> None:
        """Have vLLM, imported by now, begin the engine's process from it."""
        import vllm.v1.engine.utils

        vllm.v1.engine.utils.get_mp_context = self.context

    def context(self) -> multiprocessing.context.BaseContext:
        """Spawns where a variable was changed that the fork server cannot take back."""
        now = _at_beginning()
        if now == self._environment:
            return EngineContext()
        changed = sorted(name for name, _ in now.items() ^ self._environment.items())
        logger.warning("slower start: %s changed meanwhile", " and ".join(dict.fromkeys(changed)))
        return multiprocessing.get_context("spawn")


def preload_libraries() -> None:
    """Set LD_PRELOAD as vLLM does on a CPU: torch's OpenMP for all, and its own malloc if any."""
    preloaded = os.environ.get("LD_PRELOAD", "")
    torch, own = _folder("torch"), _folder("vllm") / "libs"
    libraries = filter(None, preloaded.split(":"))
    malloc, openmp = list[Path](), list[Path]()
    if "libtcmalloc" not in preloaded:
        malloc = [*own.glob("libtcmalloc_minimal*.so*"), *own.glob("libtcmalloc.so*")]
    if not re.search("libomp|libgomp|libiomp", preloaded):
        openmp = [*torch.parent.glob("torch.libs/libgomp*.so*"), *torch.glob("lib/libgomp*.so*")]
    chosen = [*map(str, malloc[:1]), *libraries, *map(str, openmp[:1])]
    if chosen:
        os.environ["LD_PRELOAD"] = ":".join(chosen)


class _Process(ForkServerProcess):
    """Has the environment of its start, and the signals of a process of its own."""

    def start(self) -> None:
        self.environment = dict(os.environ)
        super().start()

    def run(self) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.environ.update(self.environment)
        super().run()


class EngineContext(ForkServerContext):
    """What `multiprocessing` calls a context: begins processes from the fork server."""

    Process = _Process


def _at_beginning() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith(AT_BEGINNING)}


def _folder(package: str) -> Path:
    """Where an installed package lies; it is not imported."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"{package} is not installed")
    return Path(spec.origin).parent
