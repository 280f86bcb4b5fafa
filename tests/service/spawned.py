"""A process as vLLM spawns them for the engine, where our plugin runs."""

import multiprocessing
import threading

from service.orphans import end_with_parent


def threads_of_plugin() -> int:
    """How many threads the plugin starts in such a process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_started)


def _started() -> int:
    before = threading.active_count()
    end_with_parent()
    return threading.active_count() - before
