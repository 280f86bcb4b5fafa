"""How many sequences may be under way: more would only wait longer than their clients do.

A prompt is as many as it has outputs or beams: so many does the engine compute.
"""

import math
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Self

from service.errors import InvalidRequestError, OverloadedError
from service.metrics import Metrics

REMEMBERED = 256  # finished prompts, from which the speed is taken
LONGEST_WAIT_S = 60


class Admission:
    """Counts sequences, running and waiting, and refuses those beyond what `limit` returns."""

    def __init__(self, limit: Callable[[], int], metrics: Metrics) -> None:
        self.sequences = 0
        self._limit = limit
        self._metrics = metrics
        self._finished: deque[float] = deque(maxlen=REMEMBERED)

    def enter(
        self, prompts: int, each: int = 1, on_last: Callable[[], None] | None = None
    ) -> "Ticket":
        """Take that many prompts in, of `each` sequences.

        `on_last` is called when the last prompt has left. A list longer than the limit gets in
        when nothing else is under way.

        Raises OverloadedError, and InvalidRequestError for what could never get in.
        """
        limit, sequences = self._limit(), prompts * each
        if each > 1 and sequences > limit:
            raise InvalidRequestError(
                f"{prompts} prompts of {each} outputs or beams each are {sequences} sequences, at "
                f"most {limit} may be under way (max_num_seqs + max_queued_prompts): send fewer",
                "prompt",
            )
        if self.sequences and self.sequences + sequences > limit:
            wait = self._wait_s(self.sequences + sequences - limit)
            self._metrics.rejections.labels("queue_full").inc()
            raise OverloadedError(
                f"{self.sequences} sequences are under way, at most {limit} may be: "
                f"try again in {wait} s",
                wait,
            )
        self._change(sequences)
        return Ticket(self, prompts, each, on_last)

    def leave(self, sequences: int) -> None:
        """That many have ended."""
        self._finished.extend([time.monotonic()] * min(sequences, REMEMBERED))
        self._change(-sequences)

    def _change(self, sequences: int) -> None:
        self.sequences += sequences
        self._metrics.prompts_in_flight.set(self.sequences)

    def _wait_s(self, sequences: int) -> int:
        """Seconds until so many will have ended, at the speed of the last ones."""
        if len(self._finished) < 2:
            return 5
        seconds = max(time.monotonic() - self._finished[0], 0.001)
        return min(max(math.ceil(sequences * seconds / len(self._finished)), 1), LONGEST_WAIT_S)


class Ticket:
    """The prompts of one request; those that have not left by then leave at its end."""

    def __init__(
        self, admission: Admission, prompts: int, each: int, on_last: Callable[[], None] | None
    ) -> None:
        self._admission = admission
        self._left = prompts
        self._each = each
        self._on_last = on_last

    def leave_one(self) -> None:
        """One of them has ended; a cancelled one may say so after the request's end."""
        self._leave(min(1, self._left))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._leave(self._left)

    def _leave(self, prompts: int) -> None:
        if prompts:
            self._left -= prompts
            self._admission.leave(prompts * self._each)
            if not self._left and self._on_last:
                self._on_last()
