"""The rows of training data that a model is calibrated on; without torch."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random

from pydantic import ValidationError

from training.data.formats import Layout
from training.data.messages import Row
from training.data.rows import load_rows
from training.data.settings import DataConfig, Source
from training.errors import TrainingError


def drawn_rows(path: Path, layout: Layout, count: int, seed: int) -> list[Row]:
    """At most `count` rows of a file, drawn by the seed, in the file's order.

    Raises TrainingError with file and line of everything that is not a usable row.
    """
    if count < 1:
        raise TrainingError(f"--samples {count}: a model is calibrated on one row at least")
    rows = load_rows(path, layout)
    drawn = Random(f"{seed} calibration").sample(range(len(rows)), min(count, len(rows)))
    return [rows[number] for number in sorted(drawn)]


def layout_of(path: Path, max_length: int, overrides: Sequence[str]) -> Layout:
    """How the rows of a file are laid out, by settings such as data.prompt=question.

    Raises TrainingError for unknown ones, wrong values, and a length that is too short.
    """
    settings = dict(map(_setting, overrides))
    try:
        config = DataConfig.model_validate(
            {"train": path, "max_length": max_length, "batching": "grouped", **settings}
        )
    except ValidationError as error:
        detail = error.errors()[0]
        key = ".".join(map(str, detail["loc"]))
        raise TrainingError(f"data.{key}: {detail['msg']} (got {detail['input']!r})") from error
    return config.layout(Source(path=path))


def _setting(override: str) -> tuple[str, str]:
    name, equals, value = override.removeprefix("data.").partition("=")
    known: Mapping[str, object] = Layout.__dataclass_fields__
    if not equals or not override.startswith("data.") or name not in known or name == "answered":
        names = ", ".join(f"data.{each}" for each in known if each != "answered")
        raise TrainingError(f"{override!r}: expected key=value, the key one of {names}")
    return name, value
