"""No engine process outlives the server: an orphan would hold the GPU's memory."""

import multiprocessing
import os
import threading
from multiprocessing.process import BaseProcess

from service.engine.garbage import search_as_usual
from service.machine.memory import give_back_now_and_then


def end_with_parent() -> None:
    """In a process that vLLM began: watch from a thread that the parent lives, else end.

    pyproject.toml names this as a vLLM plugin, since those run in every process of the engine.
    vLLM's processes end with a server that stops in order, but outlive one that was SIGKILLed.
    (Linux's PR_SET_PDEATHSIG would fire already when the *thread* that loaded the model ends.)
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    search_as_usual()  # this process has imported what it needs
    give_back_now_and_then()
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)
