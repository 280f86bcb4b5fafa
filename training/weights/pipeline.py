"""Work done ahead by a thread, handed over in order."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def done_ahead(jobs: Iterable[Callable[[], T]], most: int) -> Iterator[T]:
    """Yield what the jobs return, in their order; at most `most` results wait to be taken.

    What a job raises is raised here, in its turn; jobs not yet begun are dropped then.
    """
    waiting: deque[Future[T]] = deque()
    with ThreadPoolExecutor(1) as thread:
        try:
            for job in jobs:
                waiting.append(thread.submit(job))
                if len(waiting) == most:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
