"""Samples as the model would see them, with what is learned marked."""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice

from training.data.collate import EncodedSample
from training.data.messages import Row
from training.rendering.conversation import Rendering

OPENED, CLOSED = "⟦", "⟧"
"""Around what is learned."""


def preview(
    rendering: Rendering, rows: Sequence[Row], count: int, max_length: int
) -> Iterator[str]:
    """Text of the first `count` samples. Raises TrainingError for a row that has none."""
    samples = ((row, sample) for row in rows for sample in rendering.encode(row, max_length))
    for row, sample in islice(samples, count):
        yield _shown(rendering, row, sample)


def _shown(rendering: Rendering, row: Row, sample: EncodedSample) -> str:
    decode = rendering.tokenizer.decode
    learned = sum(len(answer) for _, answer in sample.turns)
    cut = f", {sample.cut_tokens} tokens of the prompt cut" if sample.cut_tokens else ""
    text = _marked(sample, decode)
    ids = _marked(sample, lambda part: f" {' '.join(map(str, part))} ").strip()
    return f"{row.where}: {len(sample.ids)} tokens, {learned} learned{cut}\n{text}\n{ids}\n"


def _marked(sample: EncodedSample, write: Callable[[list[int]], str]) -> str:
    return "".join(
        f"{write(given)}{OPENED}{write(answer)}{CLOSED}" for given, answer in sample.turns
    )
