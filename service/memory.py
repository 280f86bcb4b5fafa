"""On a CPU: the engine's process keeps the memory that it frees, for its next step."""

import os


def keep_freed_memory() -> None:
    """Tell glibc in the processes started from now on (one with another malloc does not care).

    It would give every large tensor back to the kernel, and have the kernel clear new pages for
    the next: a third of the time where a vocabulary is large.
    """
    os.environ.setdefault("MALLOC_MMAP_MAX_", "0")
    os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", str(2**40))
