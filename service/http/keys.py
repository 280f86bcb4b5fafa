"""API keys: compared in constant time, read again when their file changes."""

import hashlib
import hmac
from pathlib import Path

Digest = bytes


class Keys:
    """The keys of a setting and of a file (a key a line; blank lines and # comments are none)."""

    def __init__(self, configured: str, file: Path | None) -> None:
        self._configured = [_digest(key) for key in configured.split()]
        self._file = file
        self._stamp: tuple[int, int] | None = None
        self._from_file: list[Digest] = []
        self._read()

    @property
    def needed(self) -> bool:
        """True when keys are configured, also when the file holds none now."""
        return bool(self._configured) or self._file is not None

    def accept(self, authorization: str) -> bool:
        """Whether an Authorization header ("Bearer KEY") carries one of the keys."""
        self._read()
        scheme, _, key = authorization.partition(" ")
        presented = _digest(key.strip())
        known = False
        for digest in (*self._configured, *self._from_file):  # all: time must not show which
            known |= hmac.compare_digest(digest, presented)
        return known and scheme.lower() == "bearer"

    def _read(self) -> None:
        if self._file is None:
            return
        try:
            status = self._file.stat()
            stamp = (status.st_mtime_ns, status.st_size)
            if stamp == self._stamp:
                return
            lines = self._file.read_text(encoding="utf-8").split("\n")
        except OSError:
            return  # a file that is being replaced: the keys last read stay
        self._from_file = _digests(lines)
        self._stamp = stamp


def _digests(lines: list[str]) -> list[Digest]:
    stripped = (line.strip() for line in lines)
    return [_digest(line) for line in stripped if line and line[0] != "#"]


def _digest(key: str) -> Digest:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
