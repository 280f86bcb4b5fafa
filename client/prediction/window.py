"""How many rows one server is asked at a time: all it takes, and less when it is busy or slow."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Pace:
    """How much to ask at once, and for how many seconds to wait for a server that is away.

    vLLM runs 256 rows at once by default. With 32 x 16 as many wait there, and take the places of
    finished ones without a gap, even of 256 that finish together. Many short lists keep it fuller
    than a few long ones: a connection sends its next list only when the slowest row of the last one
    is done. `connections` are to each server. Where lists take longer than `latency` seconds, fewer
    rows are asked at a time.
    """

    batch_size: int = 32
    connections: int = 16
    model_wait: float = 1800.0
    latency: float = 120.0


@dataclass(frozen=True)
class Ticket:
    """A list under way: its number of rows, and how often the window had been cut by then."""

    rows: int
    cuts: int


class Window:
    """Additive increase, multiplicative decrease of the rows under way, as TCP does it.

    It begins at its most: a test set is to be fast, and a server that cannot take it says so. All
    lists of one round fail together, so only those that were sent after the last cut cut again.
    Source: Chiu and Jain, Analysis of the Increase and Decrease Algorithms (1989).
    """

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._most = pace.batch_size * pace.connections
        self._limit = float(self._most)
        self._under_way = 0
        self._cuts = 0

    @property
    def room(self) -> int:
        """How many rows the next list may have: alike over all connections; 0 is none now."""
        size = max(1, min(self._pace.batch_size, int(self._limit) // self._pace.connections))
        return size if self._under_way + size <= self._limit or not self._under_way else 0

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way."""
        return not self._under_way

    def enter(self, rows: int) -> Ticket:
        """Count a list that is sent."""
        self._under_way += rows
        return Ticket(rows, self._cuts)

    def leave(self, ticket: Ticket) -> None:
        """Count a list that has ended, however it did."""
        self._under_way -= ticket.rows

    def answered(self, ticket: Ticket, seconds: float) -> None:
        """A list has its answers after so long.

        In time: a list more of rows in a round, at most twice as many. Too late: fewer rows, but
        one a connection, for a row can be slow by itself.
        """
        if seconds > self._pace.latency:
            shorter = max(0.5, self._pace.latency / seconds)
            self._cut(ticket, max(self._limit * shorter, self._pace.connections))
        else:
            more = min(self._pace.batch_size, self._limit) * ticket.rows / self._limit
            self._limit = min(self._most, self._limit + more)

    def overloaded(self, ticket: Ticket) -> None:
        """The server had too much to do for a list: half as many rows."""
        self._cut(ticket, max(self._limit / 2, 1.0))

    def _cut(self, ticket: Ticket, limit: float) -> None:
        if ticket.cuts == self._cuts:
            self._limit = min(self._limit, limit)
            self._cuts += 1
