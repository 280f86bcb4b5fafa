"""Processes that begin as the engine's do."""

import multiprocessing
import os
import threading
from multiprocessing import forkserver

from service.engine.ahead import EngineContext
from service.engine.orphans import exit_with_parent


def threads_of_plugin() -> int:
    """How many threads the plugin starts in such a process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_started)


def _started() -> int:
    before = threading.active_count()
    exit_with_parent()
    return threading.active_count() - before


def set_after_the_fork_server(name: str, value: str) -> str | None:
    """A variable, as a process forked from a fork server that is older has it."""
    forkserver.ensure_running()
    os.environ[name] = value
    try:
        with EngineContext().Pool(1) as pool:
            return pool.apply(os.getenv, (name,))
    finally:
        del os.environ[name]
