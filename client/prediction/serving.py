"""A server that runs as long as it is asked, and no longer."""

import os
import shlex
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from client.errors import ClientError, InputError

LOG_SHOWN = 2000  # characters of a server's log
STOPS_WITHIN_S = 60.0


@contextmanager
def served(command: str, log: Path, model: str) -> Iterator[tuple[str, ...]]:
    """The URL of a server that runs as long; `{port}` and `{model}` in its command are filled in.

    Should it end before we do, an interrupt stops what runs, so that SIGINT must be heeded, and
    InputError tells the end of its log.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = _filled(command, {"{port}": str(port), "{model}": model})
    print(f"serving: {shlex.join(words)} (its log: {log})", flush=True)
    try:
        with log.open("wb") as file:
            # in a group of its own: Ctrl-C is for us, who then stop it
            server = subprocess.Popen(words, stdout=file, stderr=subprocess.STDOUT, process_group=0)
    except OSError as problem:
        raise InputError(f"cannot start {words[0]}: {problem.strerror}") from problem
    stopping, ended = threading.Event(), list[int]()

    def watch() -> None:
        code = server.wait()
        if not stopping.is_set():
            ended.append(code)
            os.kill(os.getpid(), signal.SIGINT)  # wherever the run is: it could wait for long

    watcher = threading.Thread(target=watch)
    try:
        watcher.start()
        yield (f"http://127.0.0.1:{port}",)
    except (KeyboardInterrupt, ClientError):
        if not ended:  # else its log says more
            raise
    finally:
        stopping.set()
        _signal(server, signal.SIGTERM)
        watcher.join(STOPS_WITHIN_S)
        _signal(server, signal.SIGKILL)  # what a shell has left running
    if ended:
        tail = log.read_text("utf-8", "replace")[-LOG_SHOWN:]
        raise InputError(f"the server ended with exit code {ended[0]}; its log says:\n{tail}")


def _signal(server: "subprocess.Popen[bytes]", number: signal.Signals) -> None:
    """To the server and all that it has started."""
    with suppress(ProcessLookupError):
        os.killpg(server.pid, number)


def _filled(command: str, values: Mapping[str, str]) -> list[str]:
    words = shlex.split(command)
    for name, value in values.items():
        words = [word.replace(name, value) for word in words]
    return words
