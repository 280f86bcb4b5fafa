"""Python's garbage collection, put off while a process starts.

Imports make a million objects that stay; collecting among them takes a fifth of the time.
"""

import gc

_DEFAULT = gc.get_threshold()
_WHILE_IMPORTING = 1_000_000  # new objects before a collection
_WHILE_SERVING = (10_000, *_DEFAULT[1:])
"""A large answer is a million objects: by default half of its time went into collecting."""


def raise_gc_threshold() -> None:
    """Collect after a million new objects, until `restore_gc_threshold`."""
    gc.set_threshold(_WHILE_IMPORTING)


def restore_gc_threshold() -> None:
    """Collect again, less often than by default, and never among what is there by now."""
    gc.freeze()
    gc.set_threshold(*_WHILE_SERVING)
