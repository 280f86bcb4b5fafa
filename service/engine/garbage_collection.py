"""Python's garbage collection, put off while a process starts.

Imports make a million objects that stay; collecting among them takes a fifth of the time.
"""

import gc

_DEFAULT = gc.get_threshold()
_WHILE_IMPORTING = 1_000_000  # new objects before a collection


def raise_gc_threshold() -> None:
    """Collect after a million new objects, until `restore_gc_threshold`."""
    gc.set_threshold(_WHILE_IMPORTING)


def restore_gc_threshold() -> None:
    """Collect as usual again, and never among what is there by now."""
    gc.freeze()
    gc.set_threshold(*_DEFAULT)
