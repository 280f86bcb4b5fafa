"""The demo: self-written data for all sixteen tasks, and a tiny LLaMA to fine-tune on it."""

from collections.abc import Mapping
from pathlib import Path

from training.demo.base import Size, write_base
from training.demo.tasks import read_split, write_splits
from training.files import write_aside
from training.progress import hide_transformers_bars

SPLIT_SIZES = {"train": 200, "dev": 10, "test": 10}  # samples per task
SIZE = Size()


def build_demo(
    output: Path, seed: int = 13, rows: Mapping[str, int] = SPLIT_SIZES, size: Size = SIZE
) -> None:
    """Write `output`/data and `output`/base; a part that exists is complete, and kept.

    The data is the same bytes for the same `seed` and `rows` on every machine; the base's weights
    follow `seed` too, but differ in the last bits between processors.
    Raises TrainingError when the rules cannot give that many distinct samples per task.
    """
    data, base = output / "data", output / "base"
    if not data.exists():
        with write_aside(data) as folder:
            write_splits(folder, rows, seed)
    if not base.exists():
        questions = [row["input"] for row in read_split(data / "train.json")]
        with write_aside(base) as folder:
            hide_transformers_bars()
            write_base(folder, questions, size, seed)
