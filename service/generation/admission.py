"""How many prompts may be under way: more would only wait longer than their clients do."""

import math
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Self

from service.errors import OverloadedError
from service.metrics import Metrics

REMEMBERED = 256  # finished prompts, from which the speed is taken
LONGEST_WAIT_S = 60


class Admission:
    """Counts prompts, running and waiting, and refuses those beyond what `limit` returns."""

    def __init__(self, limit: Callable[[], int], metrics: Metrics) -> None:
        self.prompts = 0
        self._limit = limit
        self._metrics = metrics
        self._finished: deque[float] = deque(maxlen=REMEMBERED)

    def enter(self, prompts: int) -> "Ticket":
        """Take that many prompts in, or raise OverloadedError.

        A list longer than the limit gets in when nothing else is under way.
        """
        limit = self._limit()
        if self.prompts and self.prompts + prompts > limit:
            wait = self._wait_s(self.prompts + prompts - limit)
            self._metrics.rejections.labels("queue_full").inc()
            raise OverloadedError(
                f"{self.prompts} prompts are under way, at most {limit} may be: "
                f"try again in {wait} s",
                wait,
            )
        self._change(prompts)
        return Ticket(self, prompts)

    def leave(self, prompts: int) -> None:
        """That many prompts have ended."""
        self._finished.extend([time.monotonic()] * prompts)
        self._change(-prompts)

    def _change(self, prompts: int) -> None:
        self.prompts += prompts
        self._metrics.prompts_in_flight.set(self.prompts)

    def _wait_s(self, prompts: int) -> int:
        """Seconds until so many prompts will have ended, at the speed of the last ones."""
        if len(self._finished) < 2:
            return 5
        seconds = max(time.monotonic() - self._finished[0], 0.001)
        return min(max(math.ceil(prompts * seconds / len(self._finished)), 1), LONGEST_WAIT_S)


class Ticket:
    """The prompts of one request; those that have not left by then leave at its end."""

    def __init__(self, admission: Admission, prompts: int) -> None:
        self._admission = admission
        self._left = prompts

    def leave_one(self) -> None:
        """One of them has ended; a cancelled one may say so after the request's end."""
        if self._left:
            self._left -= 1
            self._admission.leave(1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._left:
            self._admission.leave(self._left)
            self._left = 0
