"""asyncio.run for a program that Ctrl-C ends without a traceback, whenever it comes."""

import asyncio
import signal
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


def run_interruptible(work: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
    """Run `work` in a loop of its own; an interrupt while that is made comes right after it.

    One that breaks into the making leaves half a loop, which Python reports with a traceback when
    it throws it away.
    """
    runner = asyncio.Runner()
    if threading.current_thread() is threading.main_thread():
        _make_loop(runner)
    with runner:
        return runner.run(work())


def _make_loop(runner: asyncio.Runner) -> None:
    held: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: held.append(number))
    try:
        runner.get_loop()
    finally:
        signal.signal(signal.SIGINT, before)
    for number in held:
        signal.raise_signal(number)
