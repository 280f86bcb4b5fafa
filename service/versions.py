"""Versions of installed packages."""

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
