"""API keys: compared in constant time, read again when their file changes."""

import hashlib
import hmac
import logging
from pathlib import Path

logger = logging.getLogger("mergeline")
Digest = bytes
UTF_16 = (b"\xff\xfe", b"\xfe\xff")


class Keys:
    """The keys of a setting and of a file (a key a line; blank lines and # comments are none).

    Raises ValueError for a file that is no text.
    """

    def __init__(self, configured: str, file: Path | None) -> None:
        self._configured = [_digest(key.encode()) for key in configured.split()]
        self._file = file
        self._stamp: tuple[int, int] | None = None
        self._from_file: list[Digest] = []
        if file is not None:
            self._stamp = _stamp(file)
            self._from_file = read_keys(file)

    @property
    def needed(self) -> bool:
        """True when keys are configured, also when the file holds none now."""
        return bool(self._configured) or self._file is not None

    @property
    def several(self) -> bool:
        """True when there is more than one, and so perhaps more than one person."""
        self._read()
        return len({*self._configured, *self._from_file}) > 1

    def accept(self, authorization: str) -> str | None:
        """The digest of the key that an Authorization header ("Bearer KEY") carries.

        None: it carries none of ours.
        """
        self._read()
        scheme, _, key = authorization.partition(" ")
        presented = _digest(key.strip().encode("latin-1"))  # as a header's bytes are decoded
        known = False
        for digest in (*self._configured, *self._from_file):  # all: time must not show which
            known |= hmac.compare_digest(digest, presented)
        return presented.hex() if known and scheme.lower() == "bearer" else None

    def _read(self) -> None:
        if self._file is None:
            return
        try:
            stamp = _stamp(self._file)
            if stamp == self._stamp:
                return
            self._stamp = stamp
            self._from_file = read_keys(self._file)
        except OSError:
            return  # a file that is being replaced: the keys last read stay
        except ValueError as error:
            logger.error("%s; the keys that were read last stay", error)


def read_keys(file: Path) -> list[Digest]:
    """The digests of a file's keys, in UTF-8 or UTF-16, with or without a byte order mark.

    Raises OSError, and ValueError for what is no text.
    """
    content = file.read_bytes()
    encoding = "utf-16" if content.startswith(UTF_16) else "utf-8-sig"
    text = content.decode(encoding, "replace")
    if "\ufffd" in text or "\0" in text:
        raise ValueError(f"{file} is no text in UTF-8, with a key a line")
    lines = map(str.strip, text.split("\n"))
    return [_digest(line.encode()) for line in filter(_is_key, lines)]


def _is_key(line: str) -> bool:
    return bool(line) and line[0] != "#"


def _stamp(file: Path) -> tuple[int, int]:
    status = file.stat()
    return status.st_mtime_ns, status.st_size


def _digest(key: bytes) -> Digest:
    return hashlib.sha256(key).digest()
