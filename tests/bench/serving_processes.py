"""The processes that `make bench-serving` compares: both servers, and workers for the rest."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

START_LIMIT_S = 300
POLL_S = 0.05

ENGINE: dict[str, Any] = {
    "dtype": "float32",
    "max_num_seqs": 256,
    "max_num_batched_tokens": 2048,
    "enforce_eager": True,
    "enable_prefix_caching": True,
    "distributed_executor_backend": "uni",
    "scheduling_policy": "priority",
}
# What our service sets by itself on a CPU, for all alike: the first keeps "uni", which vLLM makes
# "mp" otherwise, and the next two have freed memory kept. Then the same cache and threads.
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "OMP_NUM_THREADS": "1",
}
PLAIN = {"VLLM_PLUGINS": ""}  # vLLM as it comes, without what this project registers in it


class Process:
    """A child that writes to a log; its start is what all times count from."""

    def __init__(self, command: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        self.log = log
        self._started = time.monotonic()
        with log.open("ab") as file:
            self.process = subprocess.Popen(
                [sys.executable, *command],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=file,
                env={**os.environ, **environment},
            )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def age(self) -> float:
        """Seconds since the start; raises once it took too long or the process has ended."""
        seconds = time.monotonic() - self._started
        if self.process.poll() is not None or seconds > START_LIMIT_S:
            tail = self.log.read_text(errors="replace")[-3000:]
            raise RuntimeError(f"{self.process.args!r}: exit {self.process.poll()}\n{tail}")
        return seconds

    def stop(self) -> None:
        """SIGTERM, and SIGKILL when that was not heard."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()


class Server(Process):
    """A server on a free port."""

    def __init__(self, command: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        super().__init__([*command, "--port", str(self.port)], log, environment)
        # nobody reads it: it must not fill up
        assert self.process.stdout is not None
        self.process.stdout.close()

    def wait_until(self, path: str) -> float:
        """Seconds from the start until `path` answers 200; polled cheaply: cores are few."""
        while True:
            seconds = self.age()
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
            try:
                connection.request("GET", path)
                if connection.getresponse().status == http.HTTPStatus.OK:
                    return seconds
            except OSError:
                pass
            finally:
                connection.close()
            time.sleep(POLL_S)


def our_server(model: Path, log: Path) -> Server:
    """`python -m service` with the benchmark's engine."""
    own = {name: ENGINE[name] for name in ("dtype", "max_num_seqs")}
    # the service asks for "uni" itself, and takes eager mode on a CPU
    named = {*own, "distributed_executor_backend", "enforce_eager"}
    further = {name: value for name, value in ENGINE.items() if name not in named}
    command = ["-m", "service", "--model", str(model), "--engine-args", json.dumps(further)]
    return Server([*command, *_flags(own)], log, ENVIRONMENT)


def vllm_server(model: Path, log: Path) -> Server:
    """The OpenAI server of vLLM with the same engine; without its access log, as ours."""
    command = ["-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
    command += ["--host", "127.0.0.1", "--generation-config", "vllm"]
    command += ["--served-model-name", "model", "--disable-uvicorn-access-log"]
    return Server([*command, *_flags(ENGINE)], log, ENVIRONMENT | PLAIN)


class Worker(Process):
    """tests.bench.serving_worker: answers lists of prompts, one line in, one line out."""

    def __init__(self, kind: str, model: Path, log: Path) -> None:
        super().__init__(
            ["-m", "tests.bench.serving_worker", kind, str(model)], log, ENVIRONMENT | PLAIN
        )

    def ask(self, prompts: Sequence[str], tokens: int, **how: int) -> list[int]:
        """Have all prompts answered; the counts of prompt tokens and of completion tokens."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        job = {"prompts": prompts, "tokens": tokens, "engine": ENGINE, **how}
        self.process.stdin.write(json.dumps(job).encode() + b"\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            self.age()
        counts: list[int] = json.loads(line)
        return counts


@contextmanager
def both_servers(model: Path, folder: Path) -> Iterator[tuple[Server, Server]]:
    """Ours and vLLM's, ready."""
    with our_server(model, folder / "ours.log") as ours:
        ours.wait_until("/readyz")
        with vllm_server(model, folder / "vllm.log") as theirs:
            theirs.wait_until("/health")
            yield ours, theirs


def _flags(settings: Mapping[str, Any]) -> list[str]:
    flags: list[str] = []
    for name, value in settings.items():
        flags.append("--" + name.replace("_", "-"))
        if value is not True:
            flags.append(str(value))
    return flags
