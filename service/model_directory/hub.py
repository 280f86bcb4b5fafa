"""Models by their names on a hub."""

import re
import subprocess
import sys
from pathlib import Path

CACHED = re.compile(r"/models(?:--|/)[^/]+?--([^/]+)/snapshots/[^/]+$")
HUB_NAME = re.compile(r"(modelscope:)?[\w-][\w.-]*/[\w-][\w.-]*(@[\w./-]+)?")


def local_directory(name: str) -> Path:
    """The directory of that name, or where training's program for it downloads a hub's model to.

    Raises ValueError when it does not get it.
    """
    if Path(name).exists() or not HUB_NAME.fullmatch(name):
        return Path(name)
    ended = subprocess.run(
        [sys.executable, "-m", "training.model_directory.hub", name],
        stdout=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    if ended.returncode:
        raise ValueError(f"{name} is no directory here, and no hub gave it: see above")
    return Path(ended.stdout.strip())


def name_of(directory: Path) -> str:
    """How answers name the model: its own name where a hub's cache keeps it."""
    cached = CACHED.search(directory.absolute().as_posix())
    return cached[1] if cached else directory.resolve().name
