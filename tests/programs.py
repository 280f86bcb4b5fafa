"""Programs that are no Python packages: from Debian, or from wherever one has them."""

import os
import shutil

import pytest


def installed(program: str, what: str) -> str:
    """Where `program` is. Without it the test is skipped, but not in CI, where it fails."""
    path = shutil.which(program)
    if path is None:
        missing = pytest.fail if os.environ.get("CI") else pytest.skip
        missing(f"no {program}: install {what}")
    return path
