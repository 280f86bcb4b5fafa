"""Models and adapters by their names on the Hugging Face hub, or on ModelScope.

A name is ORG/NAME or modelscope:ORG/NAME, with @REVISION (a branch, tag or commit) where it is not
the newest that is meant. `python -m training.model_directory.hub NAME` prints the directory.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

from training.errors import TrainingError
from training.files import sha256
from training.pipes import run

HUB_NAME = re.compile(
    r"(?P<modelscope>modelscope:)?(?P<repository>[\w-][\w.-]*/[\w-][\w.-]*)(?:@(?P<revision>[\w./-]+))?"
)
# Data only: no Python, so nothing from the hub can ever run here.
DATA = ["*.json", "*.safetensors", "*.bin", "*.model", "*.jinja", "*.txt"]
SECOND_COPIES = ["original/*", "consolidated*"]  # the same weights in their maker's own layout
CACHED = {  # how both keep what was downloaded: folders of a repository, and of a revision in it
    "": re.compile(r"models--(?P<org>.+?)--(?P<name>.+)/snapshots/(?P<revision>[^/]+)$"),
    "modelscope:": re.compile(r"models/(?P<org>.+?)--(?P<name>.+)/snapshots/(?P<revision>[^/]+)$"),
}
WEIGHTS = (".safetensors", ".bin")
SUM = re.compile(r"[0-9a-f]{64}")


class HubName(NamedTuple):
    """A repository, and which of its revisions; None for the newest."""

    repository: str
    revision: str | None
    modelscope: bool


def parse_name(name: str) -> HubName | None:
    """Return what `name` names on a hub, None when it does not look like that."""
    match = HUB_NAME.fullmatch(name)
    if match is None:
        return None
    return HubName(match["repository"], match["revision"], bool(match["modelscope"]))


def local_directory(name: str) -> Path:
    """Return the directory `name`, or where the hub's repository of that name was downloaded to.

    What is there already is not downloaded again. A name that is no directory and does not look
    like org/name is returned as a path, for the reader to complain about.
    Raises TrainingError when the hub cannot be reached, or has no such repository for this user.
    """
    if Path(name).exists() or (found := parse_name(name)) is None:
        return Path(name)
    return _from_modelscope(found) if found.modelscope else _from_hugging_face(found)


def _from_hugging_face(name: HubName) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                name.repository,
                revision=name.revision,
                allow_patterns=DATA,
                ignore_patterns=SECOND_COPIES,
            )
        )
    except Exception as error:  # its own, the network's, and those of the library beneath
        remedy = "HF_ENDPOINT and, for a repository behind a licence, HF_TOKEN"
        raise _refusal(name, "the Hugging Face hub", error, remedy) from error


def _from_modelscope(name: HubName) -> Path:
    try:
        from modelscope_hub import HubApi, HubError
    except ImportError as error:
        raise TrainingError(
            f"modelscope:{name.repository} comes from ModelScope, whose client is not installed:"
            " pip install modelscope-hub"
        ) from error
    download = partial(
        HubApi().download_repo,
        *(name.repository, "model"),
        revision=name.revision,
        allow_patterns=DATA,
        ignore_patterns=SECOND_COPIES,
    )
    try:
        return download()
    except (OSError, ValueError, HubError) as error:
        with suppress(HubError):  # without a network, what was downloaded before will do
            return download(local_files_only=True)
        remedy = "MODELSCOPE_ENDPOINT and, for a private repository, MODELSCOPE_API_TOKEN"
        raise _refusal(name, "ModelScope", error, remedy) from error


def _refusal(name: HubName, hub: str, error: Exception, remedy: str) -> TrainingError:
    at = f"@{name.revision}" if name.revision else ""
    return TrainingError(
        f"{name.repository}{at} is no directory here, and {hub} did not give it"
        f" ({type(error).__name__}): check the name, the revision, the network, {remedy}"
    )


def public_name(directory: Path) -> str:
    """Return what to call a directory in public: org/name@revision if it came from a hub."""
    return _name_in_cache(directory) or directory.resolve().name


def _name_in_cache(directory: Path) -> str | None:
    for hub, pattern in CACHED.items():
        if match := pattern.search(directory.absolute().as_posix()):
            return f"{hub}{match['org']}/{match['name']}@{match['revision']}"
    return None


def weights_sums(directory: Path) -> dict[str, str]:
    """Return the sha256 of the weights of a directory that came from a hub, by file.

    Hugging Face's cache calls them so; others are summed up here. Empty where the directory is
    none of a hub's.
    """
    if _name_in_cache(directory) is None:
        return {}
    weights = [path for path in sorted(directory.iterdir()) if path.suffix in WEIGHTS]
    names = {path: path.resolve().name for path in weights}
    return {
        path.name: name if SUM.fullmatch(name) else sha256(path) for path, name in names.items()
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the directory of each name; return 0, or 2 after printing what is wrong."""
    description = "Download models and adapters, data files only, and print where they are."
    parser = argparse.ArgumentParser("python -m training.model_directory.hub", None, description)
    names = "ORG/NAME or modelscope:ORG/NAME, with @REVISION if need be"
    parser.add_argument("names", nargs="+", metavar="NAME", help=names)
    try:
        for name in parser.parse_args(arguments).names:
            print(local_directory(name))
    except TrainingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    run(main)
