"""Python's search for garbage, put off while a process starts: imports make a million objects
that stay, and looking through them again and again takes a fifth of the time.
"""

import gc

_USUAL = gc.get_threshold()
_SELDOM = 1_000_000


def search_seldom() -> None:
    """Until `search_as_usual`, look only after a million new objects."""
    gc.set_threshold(_SELDOM)


def search_as_usual() -> None:
    """What is there by now stays: never look through it again."""
    gc.freeze()
    gc.set_threshold(*_USUAL)
