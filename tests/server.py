"""A real server in a process of its own: `python -m service` on a free port."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

START_LIMIT_S = 300


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """A port that nobody listens at."""
    with socket.socket(type=kind) as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class ServerProcess:
    """Starts at once; `wait_ready` waits. `url` stays the same over restarts."""

    def __init__(
        self, model: Path, log: Path, host: str = "127.0.0.1", port: int = 0, **settings: Any
    ) -> None:
        self.port = port or free_port()
        self.url = f"http://{host}:{self.port}"
        self.log = log
        self._arguments = ["--model", str(model), "--host", host, "--port", str(self.port)]
        for name, value in ({"dtype": "float32"} | settings).items():
            self._arguments += [f"--{name.replace('_', '-')}", str(value)]
        self.start()

    def start(self) -> None:
        """Start, or start again after it ended."""
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.started = time.monotonic()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "service", *self._arguments],
                stdout=log, stderr=subprocess.STDOUT, env=environment,
            )  # fmt: skip

    def wait_until(self, path: str) -> float:
        """Seconds from the start until `path` answers 200.

        The limit counts from here: a server that many tests share may be older than it.
        """
        deadline = time.monotonic() + START_LIMIT_S
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            try:
                if httpx.get(self.url + path, timeout=5).status_code == 200:
                    return time.monotonic() - self.started
            except httpx.TransportError:
                pass
            time.sleep(0.05)
        tail = self.log.read_text(errors="replace")[-3000:]
        raise AssertionError(f"{path} did not answer (exit {self.process.poll()}):\n{tail}")

    def wait_ready(self) -> "ServerProcess":
        self.wait_until("/readyz")
        return self

    @staticmethod
    def wait_gone(pids: list[int]) -> None:
        """Wait until none of these processes runs; one that nobody has reaped yet does not."""
        deadline = time.monotonic() + 30
        while True:
            states = subprocess.run(
                ["ps", "-o", "stat=", "-p", ",".join(map(str, pids))],
                capture_output=True, text=True, check=False,
            ).stdout.split()  # fmt: skip
            if all(state.startswith("Z") for state in states):
                return
            assert time.monotonic() < deadline, f"still running: {pids}"
            time.sleep(0.1)

    def descendants(self) -> list[int]:
        """Process ids of the engine's processes."""
        found: list[int] = []
        frontier = [self.process.pid]
        while frontier:
            children = subprocess.run(
                ["ps", "-o", "pid=", "--ppid", str(frontier.pop())],
                capture_output=True, text=True, check=False,
            ).stdout.split()  # fmt: skip
            frontier += [int(pid) for pid in children]
            found += [int(pid) for pid in children]
        return found

    def generate(self, prompt: str | list[str], **parameters: Any) -> Any:
        body = {"prompt": prompt, "parameters": parameters}
        answer = httpx.post(self.url + "/generate", json=body, timeout=300)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def generated_ids(self, prompts: list[str], **parameters: Any) -> list[list[int]]:
        """The token ids of every prompt's answer."""
        answers = self.positions(prompts, logprobs=0, **parameters)
        return [[position["token_id"] for position in one] for one in answers]

    def positions(self, prompts: list[str], **parameters: Any) -> list[list[dict[str, Any]]]:
        """Every prompt's answer: its tokens' log-probabilities, with the likeliest ones there."""
        return [one["logprobs"] for one in self.generate(prompts, **parameters)["results"]]

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels."""
        lines = httpx.get(self.url + "/metrics", timeout=30).text.splitlines()
        samples = [line for line in lines if line.startswith((name + "{", name + " "))]
        assert samples, f"no metric {name}"
        return sum(float(line.rpartition(" ")[2]) for line in samples)

    def kill(self) -> None:
        """SIGKILL, as the kernel does when memory runs out."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=120)


@contextmanager
def serving(model: Path, log: Path, **settings: Any) -> Iterator[ServerProcess]:
    """A server that is ready, and stopped at the end."""
    server = ServerProcess(model, log, **settings)
    try:
        yield server.wait_ready()
    finally:
        server.stop()
