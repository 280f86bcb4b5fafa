"""A node that only computes ends with node 0, and not before: as a process, without vLLM."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

PROGRAM = """
import sys, time, service.engine.node as follower
follower.LOOK_EVERY_S, follower.GONE_AFTER_S, follower.FINISHED_AFTER_S = 0.1, 3, 2
follower.Follower("127.0.0.1", int(sys.argv[1])).start()
print("started", flush=True)
while True: time.sleep(0.1)
"""


class Alive(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.asked += 1  # type: ignore[attr-defined]
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


class Leader(ThreadingHTTPServer):
    """Answers /livez until it is closed."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Alive)
        self.asked = 0
        Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def wait_asked(self, times: int) -> None:
        while self.asked < times:
            time.sleep(0.01)

    def end(self) -> None:
        self.shutdown()
        self.server_close()


@pytest.fixture
def leader() -> Iterator[Leader]:
    made = Leader()
    yield made
    made.end()


def follow(port: int) -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(port)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    assert process.stdout.readline() == "started\n"
    return process


def test_it_fails_when_its_leader_has_gone(leader: Leader) -> None:
    follower = follow(leader.server_port)
    leader.wait_asked(3)
    assert follower.poll() is None
    leader.end()
    assert follower.wait(60) == 1


def test_told_to_stop_it_goes_on_until_its_leader_has_finished(leader: Leader) -> None:
    follower = follow(leader.server_port)
    leader.wait_asked(3)
    follower.send_signal(signal.SIGTERM)
    leader.wait_asked(leader.asked + 10)
    assert follower.poll() is None
    leader.end()
    assert follower.wait(60) == 0


def test_told_twice_it_ends_at_once(leader: Leader) -> None:
    follower = follow(leader.server_port)
    leader.wait_asked(3)
    follower.send_signal(signal.SIGTERM)
    assert follower.stdout
    assert "stopping" in follower.stdout.readline()
    follower.send_signal(signal.SIGTERM)
    assert follower.wait(60) == 0


def test_without_a_leader_it_ends_when_told_to(leader: Leader) -> None:
    leader.end()
    follower = follow(leader.server_port)
    follower.send_signal(signal.SIGTERM)
    assert follower.wait(60) == 0
