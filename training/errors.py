"""The error that training commands show to their user."""

from collections.abc import Sequence

LISTED = 20


class TrainingError(Exception):
    """Bad input or a failed check; the message says what, where, and the remedy."""


def refuse(problems: Sequence[str]) -> None:
    """Raise TrainingError when there are problems: all in one, lines beyond 20 only counted."""
    if problems:
        more = len(problems) - LISTED
        lines = [*problems[:LISTED], *([f"… and {more:,} more like these"] if more > 0 else [])]
        raise TrainingError("\n".join(lines))
