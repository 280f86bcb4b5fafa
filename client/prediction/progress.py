"""Tell how a run goes: a bar on a terminal, a plain line now and then elsewhere."""

import sys
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from tqdm import tqdm

_EVERY_S = 10.0


class Progress:
    """Counts of one run, shown on stderr; `done` rows of `total` were there at the start."""

    def __init__(self, total: int, done: int) -> None:
        self.total, self.done = total, done
        self.rows = self.tokens = self.retries = self.cut = 0
        self._began = self._last_line = time.monotonic()
        self._last_retry = -_EVERY_S
        self._bar = _open_bar(total, done) if sys.stderr.isatty() else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def start(self) -> None:
        """Begin to measure the speed: the server is ready."""
        self._began = time.monotonic()

    def row(self, finish_reason: str, tokens: int) -> None:
        """Count one finished row and its completion tokens."""
        self.rows += 1
        self.tokens += tokens
        self.cut += finish_reason == "length"
        if self._bar is not None:
            speed = f"{self._tokens_a_second():.0f} tokens/s, {self.retries} retries"
            self._bar.set_postfix_str(speed, refresh=False)
            self._bar.update()
        elif time.monotonic() - self._last_line >= _EVERY_S:
            rows = self.done + self.rows
            self.note(f"{rows}/{self.total} rows, {self._speed()}, {self._left()}")

    def retry(self, reason: str) -> None:
        """Count one retried request; show a reason now and then, not for each of a storm."""
        self.retries += 1
        if time.monotonic() - self._last_retry >= _EVERY_S:
            self._last_retry = time.monotonic()
            self.note(f"trying again: {reason}")

    def note(self, text: str) -> None:
        """Show one line."""
        self._last_line = time.monotonic()
        if self._bar is not None:
            self._bar.write(text, file=sys.stderr)
        else:
            print(text, file=sys.stderr, flush=True)

    def summary(self) -> str:
        """Rows, speed and retries of this run in one line."""
        seconds = time.monotonic() - self._began
        line = f"{self.rows} rows in {seconds:.1f} s: {self._speed()}, {self.retries} retries"
        return f"{line}; {self.cut} answers were cut at max_tokens" if self.cut else line

    def _left(self) -> str:
        seconds = (self.total - self.done - self.rows) * self._seconds() / self.rows
        return f"{self.retries} retries, {timedelta(seconds=round(seconds))} left"

    def _speed(self) -> str:
        return f"{self.rows / self._seconds():.1f} rows/s, {self._tokens_a_second():.0f} tokens/s"

    def _tokens_a_second(self) -> float:
        return self.tokens / self._seconds()

    def _seconds(self) -> float:
        return max(time.monotonic() - self._began, 1e-9)


def _open_bar(total: int, done: int) -> "tqdm[Any]":
    from tqdm import tqdm

    return tqdm(total=total, initial=done, unit="row", dynamic_ncols=True)
