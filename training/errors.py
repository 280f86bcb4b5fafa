"""The error that training commands show to their user."""


class TrainingError(Exception):
    """Bad input or a failed check; the message says what, where, and the remedy."""
