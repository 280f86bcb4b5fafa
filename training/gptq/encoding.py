"""Rows to the ids that a model is calibrated on, rendered as for training."""

from collections.abc import Iterable
from pathlib import Path

from training.data.messages import Row
from training.data.settings import Mode
from training.errors import TrainingError, refuse
from training.rendering.conversation import Rendering
from training.rendering.tokenizer import load_tokenizer


def encoded(
    model: Path, rows: Iterable[Row], max_length: int, thinking: Mode | None
) -> list[list[int]]:
    """Token ids of each row's prompts and answers, by the chat template of `model`.

    Raises TrainingError for rows that training would refuse, all at once.
    """
    rendering = Rendering.of(load_tokenizer(model, None), thinking)
    ids: list[list[int]] = []
    problems: list[str] = []
    for row in rows:
        try:
            ids += [sample.ids for sample in rendering.encode(row, max_length)]
        except TrainingError as error:
            problems.append(str(error))
    refuse(problems)
    return ids
