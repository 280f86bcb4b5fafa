"""Versions of installed packages."""

from importlib.metadata import PackageNotFoundError, version


def installed(*names: str) -> str:
    """Version of the first of `names` that is installed: a package may come under two names."""
    for name in names:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return "not installed"
