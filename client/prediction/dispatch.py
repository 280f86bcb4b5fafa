"""Keep the servers busy: lists of prompts over a few connections, until every row is settled."""

import asyncio
import random
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from itertools import islice, takewhile
from typing import Any

from client.errors import JournalError, ServerGoneError, TransientError
from client.prediction.api import Api, Served
from client.prediction.events import Item
from client.prediction.journal import differing
from client.prediction.progress import Progress
from client.prediction.window import Pace, Ticket, Window

# How often one row may be part of a failed try before it is given up.
_TRIES = 8
# How many engines may die while they work on a row.
_DEATHS = 2
_LONGEST_BACK_OFF_S = 30.0


@dataclass(frozen=True)
class Questions:
    """What to ask, by row index: prompts, what goes with all of them, adapters of their own."""

    prompts: Mapping[int, str]
    parameters: Mapping[str, Any]
    adapters: Mapping[int, str]

    def adapter(self, row: int) -> str:
        """The row's own adapter; "" without."""
        return self.adapters.get(row, "")

    def parameters_of(self, row: int) -> dict[str, Any]:
        """Of a request with this row."""
        own = {"adapter": self.adapters[row]} if row in self.adapters else {}
        return {**self.parameters, **own}


class Dispatch:
    """Ask all `questions`; `record` gets each answer as it arrives."""

    def __init__(
        self,
        apis: Sequence[Api],
        questions: Questions,
        pace: Pace,
        record: Callable[[dict[str, Any]], None],
        progress: Progress,
    ) -> None:
        self._apis, self._questions = apis, questions
        self._pace, self._record, self._progress = pace, record, progress
        self._waiting = deque(sorted(questions.prompts, key=questions.adapter))
        self._suspects: deque[int] = deque()  # asked one at a time: an engine died of one of them
        self._tries: Counter[int] = Counter()
        self._deaths: Counter[int] = Counter()
        self.given_up: dict[int, str] = {}
        self._unsettled = len(self._waiting)
        self._news = asyncio.Event()  # rows wait again, a list has ended, or all are settled
        self._settled = asyncio.Event()
        self._away: set[asyncio.Task[Any]] = set()
        self._last_answer = 0.0
        self._served = Served("")

    async def run(self, served: Served) -> dict[int, str]:
        """Settle all rows; return the reason for each that got no answer, by row index.

        All servers must serve this model, and go on to: else JournalError. Raises RefusedError and
        ServerGoneError too.
        """
        self._served = served
        self._last_answer = _now()
        try:
            async with asyncio.TaskGroup() as group:
                for api in self._apis:
                    group.create_task(self._use(api))
                await self._settled.wait()
                self._news.set()
                for waiting in self._away:
                    waiting.cancel()
        except ExceptionGroup as problems:
            raise _first(problems) from None
        return self.given_up

    async def _use(self, api: Api) -> None:
        with self._waiting_for_a_server():
            await self._recover(api)
        recovering, window = asyncio.Lock(), Window(self._pace)
        async with asyncio.TaskGroup() as group:
            for _ in range(self._pace.connections):
                group.create_task(self._work(api, window, recovering))

    async def _work(self, api: Api, window: Window, recovering: asyncio.Lock) -> None:
        failures = 0
        while batch := await self._take(window):
            try:
                with self._within(window, len(batch)) as ticket:
                    began = _now()
                    await self._send(api, batch)
                    window.answered(ticket, _now() - began)
                failures = 0
            except TransientError as problem:
                failures += 1
                if problem.overloaded:
                    window.overloaded(ticket)
                with self._waiting_for_a_server():
                    await self._back_off(problem, failures)
                    async with recovering:
                        await self._recover(api, str(problem))

    @contextmanager
    def _waiting_for_a_server(self) -> Iterator[None]:
        """What waits so is ended once the other servers have answered all rows."""
        task = asyncio.current_task()
        assert task is not None
        self._away.add(task)
        try:
            yield
        finally:
            self._away.discard(task)

    @contextmanager
    def _within(self, window: Window, rows: int) -> Iterator[Ticket]:
        """A list of so many rows is under way; at its end others may have its room."""
        ticket = window.enter(rows)
        try:
            yield ticket
        finally:
            window.leave(ticket)
            self._news.set()

    async def _take(self, window: Window) -> list[int]:
        """The next list, of rows of one adapter; it waits for one. Empty when all are settled."""
        while self._unsettled and not self._may_send(window):
            self._news.clear()
            await self._news.wait()
        return self._next_list(window.room)

    def _may_send(self, window: Window) -> bool:
        if self._suspects:  # alone at its server, so that it is known of what an engine dies
            return window.is_idle
        return bool(self._waiting and window.room)

    def _next_list(self, most: int) -> list[int]:
        if self._suspects:
            return [self._suspects.popleft()]
        adapter, rows = self._questions.adapter, [*islice(self._waiting, most)]
        batch = [*takewhile(lambda row: adapter(row) == adapter(rows[0]), rows)]
        for _ in batch:
            self._waiting.popleft()
        return batch

    async def _send(self, api: Api, batch: list[int]) -> None:
        """Send one list; what it leaves unsettled waits again, and the last reason is raised."""
        if self._deaths[batch[0]]:
            await self._refuse_to_be_blamed(api, batch[0])
        began, unsettled = _now(), dict(enumerate(batch))
        problems: dict[int, TransientError] = {}
        last = TransientError("the server left rows of a list unanswered")
        prompts = [self._questions.prompts[row] for row in batch]
        parameters = self._questions.parameters_of(batch[0])
        try:
            async with aclosing(api.generate_stream(prompts, parameters)) as items:
                async for item in items:
                    if item.index not in unsettled:
                        continue  # a duplicate, or none of ours
                    if item.problem is not None:
                        last = problems[unsettled[item.index]] = item.problem
                    else:
                        row = unsettled.pop(item.index)
                        self._settle(api, row, item, seconds=_now() - began)
        except TransientError as problem:
            last = problem
            last.died |= problem.lost and await api.is_away()
        for row in reversed(unsettled.values()):
            self._put_back(row, problems.get(row, last))
        if unsettled:
            raise last

    async def _refuse_to_be_blamed(self, api: Api, suspect: int) -> None:
        """A suspect is not sent to a server that is gone already."""
        if await api.is_away():
            away = TransientError("the server is away", counts=False)
            self._put_back(suspect, away)
            raise away

    def _settle(self, api: Api, row: int, item: Item, *, seconds: float) -> None:
        self._last_answer = _now()
        self._refuse_other(api, self._served._replace(model=item.model or self._served.model))
        if item.refusal is not None:
            self._give_up(row, item.refusal)
        else:
            self._record(
                {
                    "index": row,
                    "generated_text": item.text,
                    "finish_reason": item.finish_reason,
                    "usage": item.usage,
                    "seconds": round(seconds, 3),
                }
            )
            self._progress.row(item.finish_reason, item.tokens)
            self._count_settled()

    def _give_up(self, row: int, reason: str) -> None:
        self.given_up[row] = reason
        self._count_settled()

    def _count_settled(self) -> None:
        self._unsettled -= 1
        if not self._unsettled:
            self._settled.set()

    def _put_back(self, row: int, problem: TransientError) -> None:
        self._tries[row] += problem.counts
        self._deaths[row] += problem.died
        if self._deaths[row] >= _DEATHS:
            self._give_up(row, f"given up: {_DEATHS} engines died at work on it: {problem}")
        elif self._tries[row] >= _TRIES:
            self._give_up(row, f"given up after {_TRIES} tries: {problem}")
        else:
            suspect = self._deaths[row] or self._tries[row] >= _TRIES // 2
            (self._suspects if suspect else self._waiting).appendleft(row)
            self._news.set()

    async def _back_off(self, problem: TransientError, failures: int) -> None:
        self._progress.retry(str(problem))
        # The jitter keeps connections that failed together from coming back together.
        back_off = min(_LONGEST_BACK_OFF_S, 0.5 * 2 ** (failures - 1))
        pause = (problem.retry_after or back_off / 2) + random.uniform(0, back_off / 2)
        await asyncio.sleep(min(pause, self._patience_left()))

    async def _recover(self, api: Api, problem: str | None = None) -> None:
        """Wait for the server as long as any answers, and make sure it serves the same model.

        After a `problem` only while some row was answered not too long ago.
        """
        while True:
            left = self._patience_left()
            if problem is not None and not left:
                raise ServerGoneError(f"no answer for {self._pace.model_wait:g} s: {problem}")
            try:
                self._refuse_other(api, await api.wait_ready(left, self._progress.note))
                return
            except ServerGoneError as gone:
                problem = problem or str(gone)

    def _patience_left(self) -> float:
        return max(0.0, self._last_answer + self._pace.model_wait - _now())

    def _refuse_other(self, api: Api, served: Served) -> None:
        changed = differing(self._served._asdict(), served._asdict())
        if changed:
            raise JournalError(
                f"{api.url} now serves another model: was {self._served}, is {served} "
                f"({', '.join(changed)}). Serve the first one again, or use --restart"
            )


def _first(problem: Exception) -> Exception:
    while isinstance(problem, ExceptionGroup):
        problem = problem.exceptions[0]
    return problem


def _now() -> float:
    return asyncio.get_running_loop().time()
