"""PromptCBLUE's metrics on structured answers, as the official script computes them; 0..1.

Each has two halves: what one sample contributes, and the scores of any samples together. So the
same code scores a file and a resample of it.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from math import fsum
from typing import Any, NamedTuple

from client.promptcblue.rouge import Rouge, rouge

Figures = dict[str, float]


class Metric(NamedTuple):
    """`sample(gold, predicted)` of one sample's answers; `total` of at least one such result."""

    sample: Callable[[Any, Any], Any]
    total: Callable[[Sequence[Any]], Figures]
    main: str  # the score that counts for the mean over tasks
    name: str  # of that score
    is_label: bool = False


def _item_counts(gold: list[Any], predicted: list[Any]) -> tuple[int, int, int]:
    """How many items are common, stated and expected; an item that comes twice counts once."""
    expected, stated = _items(gold), _items(predicted)
    return len(expected & stated), len(stated), len(expected)


def _items(answer: list[Any]) -> set[tuple[str, ...]]:
    """Only the values count, in the order of their keys; lists within an item keep theirs."""
    return {tuple(json.dumps(item[key]) for key in sorted(item)) for item in answer}


def _micro(counts: Sequence[tuple[int, int, int]]) -> Figures:
    common, stated, expected = (sum(column) for column in zip(*counts, strict=True))
    return _named(_precision_recall_f1(common, stated, expected))


def _precision_recall_f1(common: int, stated: int, expected: int) -> tuple[float, float, float]:
    if not common:
        return 0.0, 0.0, 0.0
    precision, recall = common / stated, common / expected
    return precision, recall, 2 * precision * recall / (precision + recall)


def _named(values: Iterable[float]) -> Figures:
    return dict(zip(("precision", "recall", "f1"), values, strict=True))


def _averaged(pairs: Sequence[tuple[str, str]], *, weighted: bool) -> Figures:
    """Of (gold, predicted) labels: averages over all labels seen, alike or by gold samples."""
    seen = Counter(pairs)
    expected, stated = (Counter(labels) for labels in zip(*pairs, strict=True))
    labels = sorted(stated.keys() | expected.keys())
    each = [_precision_recall_f1(seen[one, one], stated[one], expected[one]) for one in labels]
    weights = [expected[label] for label in labels] if weighted else [1] * len(labels)
    return _named(_mean(column, weights) for column in zip(*each, strict=True))


def _mean(values: Iterable[float], weights: Sequence[int]) -> float:
    products = (weight * value for weight, value in zip(weights, values, strict=True))
    return fsum(products) / sum(weights)


def _mean_rouge(scores: Sequence[Rouge]) -> Figures:
    """0 of none: a report whose gold has no section."""
    scores = scores or [Rouge(0.0, 0.0, 0.0)]
    columns = [fsum(column) / len(scores) for column in zip(*scores, strict=True)]
    return dict(zip(("rouge1", "rouge2", "rougeL"), columns, strict=True))


def _sections(gold: dict[str, str], predicted: dict[str, str]) -> list[Rouge]:
    """One for each section of the gold report."""
    return [rouge(predicted.get(name, ""), text) for name, text in gold.items()]


def _mean_of_sections(reports: Sequence[Sequence[Rouge]]) -> Figures:
    """Over all samples' sections alike, so that a report counts by how many it has."""
    return _mean_rouge([*chain.from_iterable(reports)])


EXTRACTION = Metric(_item_counts, _micro, "f1", "micro-F1")
TEXT = Metric(lambda gold, made: rouge(made, gold), _mean_rouge, "rougeL", "Rouge-L")
REPORT = Metric(_sections, _mean_of_sections, "rougeL", "Rouge-L")


def _labels(first: str, *, weighted: bool) -> Metric:
    """Where nothing is predicted, the official script reads the task's first label."""
    return Metric(
        lambda gold, predicted: (gold, predicted or first),
        lambda pairs: _averaged(pairs, weighted=weighted),
        "f1",
        "weighted-F1" if weighted else "macro-F1",
        is_label=True,
    )


METRICS: dict[str, Metric] = {
    "CMeEE-V2": EXTRACTION,
    "CMeIE": EXTRACTION,
    "CMeIE-V2": EXTRACTION,
    "CHIP-CDN": EXTRACTION,
    "CHIP-CDEE": EXTRACTION,
    "IMCS-V2-NER": EXTRACTION,
    "CHIP-MDCFNPC": EXTRACTION,
    "IMCS-V2-SR": EXTRACTION,
    "CHIP-STS": _labels("是的", weighted=True),
    "KUAKE-IR": _labels("相关", weighted=True),
    "KUAKE-QQR": _labels("完全一致", weighted=True),
    "KUAKE-QTR": _labels("完全不匹配或者没有参考价值", weighted=True),
    "CHIP-CTC": _labels("非上述类型", weighted=False),
    "KUAKE-QIC": _labels("非上述类型", weighted=False),
    "IMCS-V2-DAC": _labels("非上述类型", weighted=False),
    "MedDG": TEXT,
    "IMCS-V2-MRG": REPORT,
}
