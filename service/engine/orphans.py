"""No engine process outlives the server: an orphan would hold the GPU's memory."""

import multiprocessing
import os
import threading
from multiprocessing.process import BaseProcess

from service.engine.garbage_collection import restore_gc_threshold
from service.machine.memory import trim_malloc_periodically


def exit_with_parent() -> None:
    """In a process that vLLM began: watch from a thread that the parent lives, else end.

    pyproject.toml names this as a vLLM plugin, since those run in every process of the engine.
    vLLM's processes end with a server that stops in order, but outlive one that was SIGKILLed.
    (Linux's PR_SET_PDEATHSIG would fire already when the *thread* that loaded the model ends.)
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    restore_gc_threshold()  # this process has imported what it needs
    trim_malloc_periodically()
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)
