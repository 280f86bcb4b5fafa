"""What lies behind a score: which rows, labels and items went wrong."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
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
    wanted = Counter(label for label, _ in read)
    gold = [label for label, _ in wanted.most_common()]
    pairs = Counter((label, made if made in wanted else OTHER) for label, made in read)
    predicted = gold + ([OTHER] if any(made == OTHER for _, made in pairs) else [])
    return Confusion(gold, predicted, pairs)


def item_errors(samples: Sequence[Sample]) -> tuple[list[ItemError], list[ItemError]]:
    """The missed and the spurious items of a task of lists, each once a sample."""
    missed, spurious = [], []
    for each in samples:
        name = each.row["sample_id"]
        missed += [ItemError(name, item) for item in _without(each.gold, each.predicted)]
        spurious += [ItemError(name, item) for item in _without(each.predicted, each.gold)]
    return missed, spurious


def _grouped(sample: Sample, known: Collection[str]) -> dict[str, tuple[list[Any], list[Any]]]:
    """The gold and the predicted items of each kind."""
    groups: dict[str, tuple[list[Any], list[Any]]] = {}
    for side, answer in enumerate((sample.gold, sample.predicted)):
        for item in answer:
            if kind := _kind(item):
                group = groups.setdefault(kind if kind in known else OTHER, ([], []))
                group[side].append(item)
    return groups


def by_kind(samples: Sequence[Sample]) -> dict[str, dict[str, float]]:
    """Precision, recall and F1 of the items of each kind, and how many are wanted.

    The most frequent first; kinds that no gold item has together. Empty where a task's items are of
    one kind, or have none.
    """
    known = {_kind(item) for each in samples for item in each.gold}
    total = EXTRACTION.total
    found = dict[str, list[tuple[int, int, int]]]()
    for each in samples:
        for kind, pair in _grouped(each, known).items():
            found.setdefault(kind, []).append(EXTRACTION.sample(*pair))
    if len(found) < 2:
        return {}
    wanted = {kind: sum(counts[2] for counts in each) for kind, each in found.items()}
    return {
        kind: {"wanted": wanted[kind], **total(found[kind])}
        for kind in sorted(found, key=lambda kind: (-wanted[kind], kind))
    }


def _kind(item: dict[str, Any]) -> str:
    return next((str(item[name]) for name in KINDS if name in item), "")


def _without(items: list[dict[str, Any]], others: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The metric counts an item that comes twice once, and so do we."""
    kept: list[dict[str, Any]] = []
    for item in items:
        if item not in others and item not in kept:
            kept.append(item)
    return kept
