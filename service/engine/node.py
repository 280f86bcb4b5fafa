"""On a node that only computes: end when node 0, which answers the requests, has gone.

vLLM's workers would wait for its next step for ever. Told to stop, the node goes on until then:
node 0, which got the signal too, still has requests to finish, and cannot without it.
"""

import multiprocessing
import os
import signal
import threading
import time
import urllib.request
from http.client import HTTPException
from types import FrameType

LOOK_EVERY_S = 2.0
GONE_AFTER_S = 60.0  # a busy or restarting network is no reason to load the model anew
FINISHED_AFTER_S = 10.0  # after SIGTERM


class Follower:
    """Watches node 0 from a thread, and hears SIGTERM."""

    def __init__(self, leader: str, port: int) -> None:
        self._url = f"http://{leader}:{port}/livez"
        self._leader_was_there = self._stopping = False

    def start(self) -> None:
        """From now on the process ends with node 0: with 0 after SIGTERM, else with 1.

        At once on a second SIGTERM, or where node 0 was never there.
        """
        signal.signal(signal.SIGTERM, self._stop)
        threading.Thread(target=self._watch, name="watch-leader", daemon=True).start()

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self._stopping or not self._leader_was_there:
            _end(0)
        self._stopping = True
        print("stopping: this node ends when node 0 has finished", flush=True)

    def _watch(self) -> None:
        while not self._answers():  # it may start after us
            time.sleep(LOOK_EVERY_S)
        self._leader_was_there = True
        seen = time.monotonic()
        while (silent := time.monotonic() - seen) < self._patience():
            time.sleep(LOOK_EVERY_S)
            if self._answers():
                seen = time.monotonic()
        print(f"{self._url} has not answered for {silent:.0f} s: this node ends", flush=True)
        _end(0 if self._stopping else 1)

    def _patience(self) -> float:
        return FINISHED_AFTER_S if self._stopping else GONE_AFTER_S

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(self._url, timeout=LOOK_EVERY_S):
                return True
        # 503 too: its engine is dead, and it is about to end
        except (OSError, HTTPException):
            return False


def _end(code: int) -> None:
    for worker in multiprocessing.active_children():
        worker.kill()
    os._exit(code)
