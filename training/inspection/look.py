"""From files and settings to a preview or a report."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from training.data import Layout, Row
from training.data.rows import scan_rows
from training.data.settings import Mode
from training.inspection.check import File, Report, check
from training.inspection.preview import preview
from training.rendering.conversation import Rendering
from training.rendering.tokenizer import load_tokenizer

Files = Sequence[tuple[Path, Layout]]


@dataclass(frozen=True)
class Look:
    """How rows would be rendered. Raises TrainingError as training does."""

    model: Path
    template: str | None
    thinking: Mode | None
    train_thoughts: bool
    max_length: int

    def preview(self, rows: Sequence[Row], count: int) -> Iterator[str]:
        """Text of the first `count` samples."""
        return preview(self._rendering, rows, count, self.max_length)

    def check(self, trained: Files, others: Files) -> Report:
        """What is found in all rows."""
        encode = partial(self._rendering.encode, max_length=self.max_length)
        return check(_scanned(trained), _scanned(others), encode, self.max_length)

    @property
    def _rendering(self) -> Rendering:
        tokenizer = load_tokenizer(self.model, self.template)
        return Rendering.of(tokenizer, self.thinking, train_thoughts=self.train_thoughts)


def _scanned(files: Files) -> list[File]:
    return [File(str(path), *scan_rows(path, each), each.answered) for path, each in files]
