"""On a CPU: the engine's process has vLLM imported already when it begins.

vLLM starts that process when the server's has imported all, which takes ten seconds, and the
other would take them again. Python's fork server is a process of one thread that imports while
the server does, and becomes the engine's when asked to.
"""

import importlib.util
import multiprocessing
import os
import shutil
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext, ForkServerProcess
from multiprocessing.util import get_temp_dir
from pathlib import Path

AT_BEGINNING = ("LD_PRELOAD", "OMP_", "GOMP_", "KMP_", "MALLOC_")
"""Variables that a process reads once, when it begins."""


class ImportsAhead:
    """The fork server, started when this is made; from a process's main thread.

    The environment has to be that of the engine's process as far as AT_BEGINNING goes.
    """

    def __init__(self) -> None:
        share_openmp()
        self._environment = _at_beginning()
        forkserver.set_forkserver_preload(["service.forked"])
        forkserver.ensure_running()

    def use(self) -> None:
        """Have vLLM, imported by now, begin the engine's process from it."""
        import vllm.v1.engine.utils

        vllm.v1.engine.utils.get_mp_context = self.context

    def context(self) -> multiprocessing.context.BaseContext:
        """Spawns where a variable was changed that the fork server cannot take back."""
        same = _at_beginning() == self._environment
        return EngineContext() if same else multiprocessing.get_context("spawn")

    def close(self) -> None:
        """Remove the fork server's socket, which nothing is asked through any more.

        Python would when it exits, but the service ends without (__main__.py).
        """
        shutil.rmtree(get_temp_dir(), ignore_errors=True)


def share_openmp() -> None:
    """Set LD_PRELOAD as vLLM does on a CPU: all libraries share torch's OpenMP."""
    torch = importlib.util.find_spec("torch")
    before = os.environ.get("LD_PRELOAD", "")
    if torch is None or torch.origin is None or "omp" in before:
        return
    package = Path(torch.origin).parent
    for folder in (package.with_name("torch.libs"), package / "lib"):
        for library in folder.glob("libgomp*.so*"):
            os.environ["LD_PRELOAD"] = ":".join(filter(None, (before, str(library))))
            return


class _Process(ForkServerProcess):
    """Has the environment of its start, not that of the fork server's."""

    def start(self) -> None:
        self.environment = dict(os.environ)
        super().start()

    def run(self) -> None:
        os.environ.update(self.environment)
        super().run()


class EngineContext(ForkServerContext):
    """What `multiprocessing` calls a context: begins processes from the fork server."""

    Process = _Process


def _at_beginning() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith(AT_BEGINNING)}
