"""Models and adapters by their names on the Hugging Face hub."""

import re
from collections.abc import Callable
from pathlib import Path

from training.errors import TrainingError

HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
# Data only: no Python, so nothing from the hub can ever run here.
DATA = ["*.json", "*.safetensors", "*.bin", "*.model", "*.jinja", "*.txt"]
SECOND_COPIES = ["original/*", "consolidated*"]  # the same weights in their maker's own layout


def local_directory(name: str, download: Callable[..., str] | None = None) -> Path:
    """Return the directory `name`, or where the hub's repository of that name was downloaded to.

    A name that is no directory and does not look like org/name is returned as a path, for the
    reader to complain about. `download` has the signature of huggingface_hub.snapshot_download.
    Raises TrainingError when the hub cannot be reached, or has no such repository for this user.
    """
    if Path(name).exists() or not HUB_NAME.fullmatch(name):
        return Path(name)
    try:
        found = (download or _snapshot_download)(
            name, allow_patterns=DATA, ignore_patterns=SECOND_COPIES
        )
    except (OSError, ValueError) as error:  # the hub's errors and the network's are OSErrors
        raise TrainingError(
            f"{name} is no directory here, and the Hugging Face hub did not give it"
            f" ({type(error).__name__}): check the name, the network, HF_ENDPOINT and, for a"
            " repository behind a licence, HF_TOKEN"
        ) from error
    return Path(found)


def public_name(directory: Path) -> str:
    """Return what to call a directory in public: org/name@revision if it came from the hub."""
    directory = directory.absolute()
    repository = directory.parent.parent.name
    if directory.parent.name == "snapshots" and repository.startswith("models--"):
        return f"{repository.removeprefix('models--').replace('--', '/', 1)}@{directory.name}"
    return directory.resolve().name


def _snapshot_download(name: str, allow_patterns: list[str], ignore_patterns: list[str]) -> str:
    from huggingface_hub import snapshot_download

    return snapshot_download(name, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns)
