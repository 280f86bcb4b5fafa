"""On a CPU: the engine's process keeps memory that it frees for its next step, for a minute."""

import ctypes
import os
import threading
import time

_NEVER = str(2**40)
TRIM_EVERY_S = 60.0


def keep_freed_memory() -> None:
    """Tell glibc in the processes started from now on (one with another malloc does not care).

    It would give every large tensor back to the kernel, and have the kernel clear new pages for
    the next: a third of the time where a vocabulary is large.
    """
    os.environ.setdefault("MALLOC_MMAP_MAX_", "0")
    os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", _NEVER)


def trim_malloc_periodically() -> None:
    """Where `keep_freed_memory` held at the process's start: malloc_trim once a minute.

    Steps of all sizes leave gaps that few later steps fit into: what is kept would grow for hours,
    far beyond what any step needs.
    """
    libc = ctypes.CDLL(None)
    if os.environ.get("MALLOC_TRIM_THRESHOLD_") == _NEVER and hasattr(libc, "malloc_trim"):
        threading.Thread(target=_trim_periodically, args=(libc,), daemon=True).start()


def _trim_periodically(libc: ctypes.CDLL) -> None:
    while True:
        time.sleep(TRIM_EVERY_S)
        libc.malloc_trim(0)
