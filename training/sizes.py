"""Sizes in bytes as users write them on a command line."""

import re
from argparse import ArgumentTypeError

UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "KI": 2**10, "MI": 2**20, "GI": 2**30}


def size_in_bytes(text: str) -> int:
    """Return the bytes that `text`, such as 500MB or 4GiB, means; made for argparse's `type`."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)((?:[KMG]I?)?)B?", text.upper())
    if not match or not float(match[1]):
        raise ArgumentTypeError(f"{text!r} is not a size such as 500MB, 2GB or 4GiB")
    return int(float(match[1]) * UNITS[match[2]])
