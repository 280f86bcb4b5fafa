"""On a node that only computes: end when node 0, which answers the requests, has gone.

vLLM's workers would wait for its next step for ever.
"""

import multiprocessing
import os
import signal
import threading
import time
import urllib.request

LOOK_EVERY_S = 2.0
GONE_AFTER_S = 10.0


def end_with(leader: str, port: int) -> None:
    """Exit with 1 when node 0 answers no longer, with 0 on SIGTERM; the workers go too."""
    signal.signal(signal.SIGTERM, lambda *_: _end(0))
    url = f"http://{leader}:{port}/livez"
    threading.Thread(target=_watch, args=(url,), name="watch-leader", daemon=True).start()


def _watch(url: str) -> None:
    while not _answers(url):  # it may start after us
        time.sleep(LOOK_EVERY_S)
    seen = time.monotonic()
    while time.monotonic() - seen < GONE_AFTER_S:
        time.sleep(LOOK_EVERY_S)
        if _answers(url):
            seen = time.monotonic()
    print(f"error: {url} has not answered for {GONE_AFTER_S:.0f} s: this node ends", flush=True)
    _end(1)


def _end(code: int) -> None:
    for worker in multiprocessing.active_children():
        worker.kill()
    os._exit(code)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=LOOK_EVERY_S):
            return True
    except OSError:  # also 503: its engine is dead, and it is about to end
        return False
