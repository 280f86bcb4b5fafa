"""What lies behind a score: which rows, labels and items went wrong."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

from client.post_generate_process import Answer, structured
from client.promptcblue.gold import Answers
from client.promptcblue.metrics import EXTRACTION, METRICS, REPORT
from client.rows import Row

RIGHT = 1 - 1e-6  # Rouge's epsilon keeps equal texts a little below 1
OTHER = "(other)"  # all predicted labels that no gold row has
KINDS = ("type", "attr", "predicate")  # the field of an item that tells of what kind it is


class Sample(NamedTuple):
    """One row with both answers, and what it scores on its own, 0..1."""

    row: Row
    gold: Answer
    predicted: Answer
    score: float

    @property
    def right(self) -> bool:
        """Nothing is missing, and nothing too much."""
        return self.score >= RIGHT


class Confusion(NamedTuple):
    """How often each gold label was answered by which; `counts` by (gold, predicted)."""

    gold: list[str]
    predicted: list[str]
    counts: Counter[tuple[str, str]]

    def rows(self, gold: str) -> int:
        """How many rows have that gold label."""
        return sum(self.counts[gold, made] for made in self.predicted)


class ItemError(NamedTuple):
    """An item that a sample should have and has not, or has and should not."""

    sample_id: str
    item: dict[str, Any]

    @property
    def text(self) -> str:
        """Its values side by side."""
        values = ("，".join(each) if isinstance(each, list) else str(each)
                  for each in self.item.values())  # fmt: skip
        return " · ".join(value or "–" for value in values)


def analysed(
    gold: Answers, rows: Mapping[str, list[Row]], converter: str
) -> dict[str, list[Sample]]:
    """Every sample of each task, in the order of the gold file."""
    return {
        task: [
            _sample(task, right, row, structured(row, converter))
            for right, row in zip(answers.values(), rows[task], strict=True)
        ]
        for task, answers in gold.items()
    }


def _sample(task: str, gold: Answer, row: Row, predicted: Answer) -> Sample:
    """What is rightly empty is right, though it scores 0 by the metric's rule."""
    metric = METRICS[task]
    score = metric.total([metric.sample(gold, predicted)])[metric.main]
    nothing_there = metric in (EXTRACTION, REPORT) and not gold and not predicted
    return Sample(row, gold, predicted, 1.0 if nothing_there else score)


def worst(samples: Sequence[Sample], count: int) -> list[Sample]:
    """Those that score lowest and are not right; of alike ones the first of the file."""
    ranked = sorted(samples, key=lambda one: one.score)
    return [each for each in ranked if not each.right][:count]


def confusion(samples: Sequence[Sample]) -> Confusion:
    """Of a task of labels, as its metric reads them; labels by how many gold rows have them."""
    task = samples[0].row["task_dataset"]
    read = [METRICS[task].sample(each.gold, each.predicted) for each in samples]
    labels, made = zip(*read, strict=True)
    gold = [*dict(Counter(labels).most_common())]
    shown = [each if each in gold else OTHER for each in made]
    counts = Counter(zip(labels, shown, strict=True))
    return Confusion(gold, [*gold, OTHER] if OTHER in shown else gold, counts)


def item_errors(samples: Sequence[Sample]) -> tuple[list[ItemError], list[ItemError]]:
    """The missed and the spurious items of a task of lists, each once a sample."""
    missed, spurious = [], []
    for each in samples:
        name = each.row["sample_id"]
        missed += [ItemError(name, item) for item in _without(each.gold, each.predicted)]
        spurious += [ItemError(name, item) for item in _without(each.predicted, each.gold)]
    return missed, spurious


def by_kind(samples: Sequence[Sample]) -> dict[str, dict[str, float]]:
    """Precision, recall and F1 of the items of each kind, and how many are wanted.

    The most frequent first; kinds that no gold item has together. Empty where a task's items are of
    one kind, or have none.
    """
    known = _kinds(each.gold for each in samples)
    groups = {kind: {kind} for kind in sorted(known)}
    groups[OTHER] = _kinds(each.predicted for each in samples) - known
    figures = {name: _figures(samples, kinds) for name, kinds in groups.items() if kinds}
    by_frequency = sorted(figures.items(), key=lambda each: -each[1]["wanted"])
    return dict(by_frequency) if len(by_frequency) > 1 else {}


def _figures(samples: Sequence[Sample], kinds: Collection[str]) -> dict[str, float]:
    def of_these(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [item for item in items if _kind(item) in kinds]

    counts = [EXTRACTION.sample(of_these(each.gold), of_these(each.predicted)) for each in samples]
    return {"wanted": sum(wanted for _, _, wanted in counts), **EXTRACTION.total(counts)}


def _kinds(answers: Iterable[list[dict[str, Any]]]) -> set[str]:
    return {*map(_kind, chain.from_iterable(answers))} - {""}


def _kind(item: dict[str, Any]) -> str:
    return next((str(item[name]) for name in KINDS if name in item), "")


def _without(items: list[dict[str, Any]], others: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The metric counts an item that comes twice once, and so do we."""
    kept: list[dict[str, Any]] = []
    for item in items:
        if item not in others and item not in kept:
            kept.append(item)
    return kept
