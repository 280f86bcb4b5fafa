"""Which of torchrun's processes this is, known before torch is imported."""

import os


def from_torchrun(name: str, default: int = 0) -> int:
    """A number that torchrun sets in the environment."""
    return int(os.environ.get(name, default))


def is_first() -> bool:
    """Whether this is the first of all processes, known before they are connected."""
    return from_torchrun("RANK") == 0


def is_first_of_node() -> bool:
    """Whether this is the first process of its machine, which prints that machine's errors."""
    return from_torchrun("LOCAL_RANK") == 0
