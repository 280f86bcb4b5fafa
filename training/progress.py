"""How far long work has come: a bar on a terminal, a plain line now and then elsewhere."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Self, TextIO, TypeVar

if TYPE_CHECKING:
    from tqdm import tqdm

_EVERY_S = 10.0
_Value = TypeVar("_Value")


@dataclass
class Meter:
    """`done` of `total` of something counted in `unit`, "B" for bytes; seconds by `clock`.

    `leave` says whether a trace stays at the end, `shown` whether this process shows anything.
    """

    title: str
    total: int
    unit: str
    done: int = 0
    leave: bool = True
    shown: bool = True
    stream: TextIO = field(default_factory=lambda: sys.stderr)
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self._first, self._note = self.done, ""
        self._units = "" if self.unit == "B" else f" {self.unit}s"
        self._began = self._last_line = self.clock()
        self._bar = self._open_bar() if self.shown and self.stream.isatty() else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def over(self, values: Iterable[_Value]) -> Iterator[_Value]:
        """Yield `values`, counting each that was dealt with."""
        with self:
            for value in values:
                yield value
                self.update()

    def update(self, count: int = 1, note: str = "") -> None:
        """Count what was done; `note` stands beside it."""
        self.done += count
        self._note = note
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(count)
        elif self.shown and self.clock() - self._last_line >= _EVERY_S:
            if self._first < self.done < self.total:
                seconds = round((self.total - self.done) / self._rate())
                self._print_line(f"{timedelta(seconds=seconds)} left")
            self._last_line = self.clock()

    def write(self, text: str) -> None:
        """Show one line on stdout, above the bar."""
        if self._bar is not None:
            self._bar.write(text)
        elif self.shown:
            print(text, flush=True)

    def close(self) -> None:
        """No more is coming."""
        if self._bar is not None:
            self._bar.close()
        elif self.shown and self.leave and self.done > self._first:
            self._print_line(f"took {timedelta(seconds=round(self.clock() - self._began))}")

    def _print_line(self, time_note: str) -> None:
        counts = f"{self._amount(self.done)}/{self._amount(self.total)}{self._units}"
        parts = [f"{self.title}: {counts} ({self.done / self.total:.0%})", self._speed(), time_note]
        print(", ".join(filter(None, [*parts, self._note])), file=self.stream, flush=True)

    def _speed(self) -> str:
        rate = self._rate()
        if self.unit == "B" or rate >= 1:
            return f"{self._amount(round(rate, 1))}{self._units}/s"
        return f"{1 / rate:.1f} s/{self.unit}"

    def _rate(self) -> float:
        return (self.done - self._first) / max(self.clock() - self._began, 1e-9)

    def _amount(self, count: float) -> str:
        return f"{_sized(count)}B" if self.unit == "B" else f"{count:,}"

    def _open_bar(self) -> "tqdm[Any]":
        from tqdm import tqdm

        return tqdm(
            total=self.total, initial=self.done, desc=self.title, unit=self.unit,
            unit_scale=self.unit == "B", leave=self.leave, file=self.stream,
        )  # fmt: skip


def _sized(count: float) -> str:
    from tqdm import tqdm

    return tqdm.format_sizeof(count)


def hide_transformers_bars(*, shown: bool = True) -> None:
    """Without a terminal, or unless `shown`, keep transformers from drawing bars of its own."""
    if not (shown and sys.stderr.isatty()):
        from transformers.utils import logging

        logging.disable_progress_bar()
