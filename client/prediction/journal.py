"""An append-only record of finished rows, so that nothing answered is ever asked for again.

One JSON object a line, each with a checksum over its own bytes:

    {"crc32":"1c291ca3","entry":{"journal":1,"input":"<sha256>","parameters":{},"model":"demo"}}
    {"crc32":"9a3f0b77","entry":{"index":17,"generated_text":"…","finish_reason":"stop",…}}

A line that does not match its checksum (torn by a crash) counts as never written. Each line is
handed to the operating system at once: killing the process loses nothing. It is not fsynced a
row, which costs milliseconds each: only a power cut could lose lines, and those rows are simply
asked for again.
"""

import fcntl
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any, TypeGuard

from client.errors import JournalError

Entry = dict[str, Any]

_FORMAT = 1
# Facts that older services do not tell, and that a run may not have known at its beginning.
_LATER, _BY_ADAPTER = "default_parameters", "adapter_files"
_BLANK: Entry = {"generated_text": ""}
_LEAD = len('{"crc32":"00000000","entry":')


class Journal:
    """The journal of one output file, locked for this process; `answers` by row index."""

    def __init__(self, path: Path, file: FileIO) -> None:
        self.path = path
        self.header: Entry | None = None
        self.answers: dict[int, Entry] = {}
        self.damaged = 0
        self._file = file
        self._load()

    @property
    def model(self) -> str:
        """The model whose answers these are."""
        return str((self.header or {}).get("model"))

    def refuse_change(self, facts: Mapping[str, Any]) -> None:
        """Raise JournalError naming each of `facts` under which the journal was not begun."""
        if self.header is None:
            return
        changed = differing(self.header, facts)
        if changed:
            details = "; ".join(
                f"{name} was {json.dumps(self.header.get(name), ensure_ascii=False)}, "
                f"is {json.dumps(facts[name], ensure_ascii=False)}"
                for name in changed
            )
            raise JournalError(
                f"{self.path} was begun with another {' and another '.join(changed)} ({details}). "
                "Give the same again to go on, another --output to keep both, "
                "or --restart to drop these answers"
            )

    def begin(self, facts: Mapping[str, Any]) -> None:
        """Write the header of a new journal, or refuse to go on under changed facts."""
        if self.header is None:
            self.header = {"journal": _FORMAT, **facts}
            self._append(self.header)
        self.refuse_change(facts)

    def record(self, answer: Entry) -> None:
        """Keep one finished row: its `index` and what the server said."""
        self.answers[answer["index"]] = answer
        self._append(answer)

    def forget_empty(self, indices: Iterable[int]) -> None:
        """Take blank answers to these rows for none, so that they are asked for again.

        They stay in the file: until another one comes behind them they are the answers.
        """
        for index in indices:
            if index in self.answers and _is_blank(self.answers[index]):
                del self.answers[index]

    def _append(self, entry: Entry) -> None:
        line = memoryview(_seal(entry))
        try:
            while line:
                line = line[self._file.write(line) :]
        except OSError as problem:
            raise JournalError(f"cannot write {self.path}: {problem.strerror}") from problem

    def _load(self) -> None:
        content = self._file.read()
        whole, newline, _torn = content.rpartition(b"\n")
        # Cut a torn tail off, or the next line would be glued to it.
        self._file.truncate(len(whole) + len(newline))
        lines = whole.split(b"\n") if newline else []
        self.damaged = int(len(content) > len(whole) + len(newline))
        for number, line in enumerate(lines, start=1):
            entry = _unseal(line)
            if number == 1:
                self._accept_header(entry)
            elif not _is_answer(entry):
                self.damaged += 1
            elif _is_blank(self.answers.get(entry["index"], _BLANK)):
                self.answers[entry["index"]] = entry

    def _accept_header(self, entry: Entry | None) -> None:
        if entry is None or entry.get("journal") != _FORMAT:
            raise JournalError(
                f"{self.path}:1: not the header of a journal of this version. "
                "Move the file away, or use --restart to begin anew"
            )
        self.header = entry


def differing(began: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The names of the facts in `now` that are others than a run began with.

    What only one of both knows makes no difference.
    """
    return [name for name, value in now.items() if not _agree(name, began.get(name), value)]


def _agree(name: str, began: Any, now: Any) -> bool:
    if name == _BY_ADAPTER:
        both = (began or {}).keys() & (now or {}).keys()
        return all(_agree(_LATER, began[adapter], now[adapter]) for adapter in both)
    return began == now or (name == _LATER and None in (began, now))


@contextmanager
def open_journal(path: Path, *, restart: bool = False) -> Iterator[Journal]:
    """Open or create the journal and hold its lock; `restart` empties it first.

    Raises JournalError when another process holds it or it cannot be opened or understood.
    """
    try:
        file = path.open("a+b", buffering=0)  # a full disk shows at the row that meets it
    except OSError as problem:
        raise JournalError(f"cannot open {path}: {problem.strerror}") from problem
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise JournalError(
                f"{path} is in use by another run. Wait for it, or choose another --output"
            ) from None
        if restart:
            file.truncate(0)
        file.seek(0)
        yield Journal(path, file)
        os.fsync(file.fileno())


def read_header(path: Path) -> Entry | None:
    """What the journal was begun with; None where there is no journal that one could go on with."""
    return _unseal(_lines(path, first=True)[0])


def read_answers(path: Path) -> list[Entry]:
    """The finished rows of a journal, without a lock on it; none where there is no journal."""
    return [entry for line in _lines(path)[1:-1] if _is_answer(entry := _unseal(line))]


def _lines(path: Path, *, first: bool = False) -> list[bytes]:
    """All lines or the first; then what stands behind the last line feed."""
    try:
        with path.open("rb") as file:
            content = file.readline() if first else file.read()
        return content.split(b"\n")
    except FileNotFoundError:
        return [b""]
    except OSError as problem:
        raise JournalError(f"cannot read {path}: {problem.strerror}") from problem


def _seal(entry: Entry) -> bytes:
    body = json.dumps(entry, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    return b'{"crc32":"%08x","entry":%s}\n' % (zlib.crc32(body), body)


def _is_answer(entry: Entry | None) -> TypeGuard[Entry]:
    return (
        entry is not None
        and type(entry.get("index")) is int
        and isinstance(entry.get("generated_text"), str)
    )


def _is_blank(answer: Entry) -> bool:
    return not answer["generated_text"].strip()


def _unseal(line: bytes) -> Entry | None:
    body = line[_LEAD:-1]
    if line + b"\n" != b'{"crc32":"%08x","entry":%s}\n' % (zlib.crc32(body), body):
        return None
    try:
        entry = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) else None
