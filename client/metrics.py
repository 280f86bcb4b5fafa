"""PromptCBLUE's metrics on structured answers, as the official script computes them; 0..1.

Gold and predicted answers of a task are lists of equal length, sample by sample.
"""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from statistics import mean
from typing import Any

from client.rouge import rouge

Scores = dict[str, float]
Metric = Callable[[Sequence[Any], Sequence[Any]], Scores]


def extraction(gold: Sequence[list[Any]], predicted: Sequence[list[Any]]) -> Scores:
    """Micro precision, recall and F1 of the items; what a sample states twice counts once."""
    common = stated = wanted = 0
    for right, made in zip(gold, predicted, strict=True):
        right_items, made_items = _items(right), _items(made)
        common += len(right_items & made_items)
        stated += len(made_items)
        wanted += len(right_items)
    precision, recall, f1 = _precision_recall_f1(common, stated, wanted)
    return {"precision": precision, "recall": recall, "f1": f1}


def _items(answer: list[Any]) -> set[tuple[str, ...]]:
    """Only the values count, in the order of their keys; lists within an item keep theirs."""
    return {tuple(json.dumps(item[key]) for key in sorted(item)) for item in answer}


def _precision_recall_f1(common: int, stated: int, wanted: int) -> tuple[float, float, float]:
    if not common:
        return 0.0, 0.0, 0.0
    precision, recall = common / stated, common / wanted
    return precision, recall, 2 * precision * recall / (precision + recall)


def classification(first_label: str, average: str) -> Metric:
    """Precision, recall and F1 averaged over the labels seen; an empty prediction is first_label.

    `average` is "macro" (every label counts alike) or "weighted" (by its gold samples).
    """

    def metric(gold: Sequence[str], predicted: Sequence[str]) -> Scores:
        made = [label or first_label for label in predicted]
        right = Counter(a for a, b in zip(gold, made, strict=True) if a == b)
        stated, wanted = Counter(made), Counter(gold)
        labels = sorted(stated.keys() | wanted.keys())
        weights = [wanted[label] if average == "weighted" else 1 for label in labels]
        each = [_precision_recall_f1(right[name], stated[name], wanted[name]) for name in labels]
        averages = (
            sum(weight * value for weight, value in zip(weights, column, strict=True))
            / sum(weights)
            for column in zip(*each, strict=True)
        )
        return dict(zip(("precision", "recall", "f1"), averages, strict=True))

    return metric


def generation(gold: Sequence[str], predicted: Sequence[str]) -> Scores:
    """Mean Rouge of the texts."""
    scores = [rouge(made, right) for right, made in zip(gold, predicted, strict=True)]
    columns = [mean(column) for column in zip(*scores, strict=True)]
    return dict(zip(("rouge1", "rouge2", "rougeL"), columns, strict=True))


def report(gold: Sequence[dict[str, str]], predicted: Sequence[dict[str, str]]) -> Scores:
    """Mean Rouge of the gold reports' sections, all samples' together."""
    pairs = [
        (right[section], made.get(section, ""))
        for right, made in zip(gold, predicted, strict=True)
        for section in right
    ]
    return generation(*zip(*pairs, strict=True))


def main_metric(scores: Scores) -> str:
    """The one that counts for the mean over tasks."""
    return "rougeL" if "rougeL" in scores else "f1"


METRICS: dict[str, Metric] = {
    "CMeEE-V2": extraction,
    "CMeIE": extraction,
    "CHIP-CDN": extraction,
    "CHIP-CDEE": extraction,
    "IMCS-V2-NER": extraction,
    "CHIP-MDCFNPC": extraction,
    "IMCS-V2-SR": extraction,
    "CHIP-STS": classification("是的", "weighted"),
    "KUAKE-IR": classification("相关", "weighted"),
    "KUAKE-QQR": classification("完全一致", "weighted"),
    "KUAKE-QTR": classification("完全不匹配或者没有参考价值", "weighted"),
    "CHIP-CTC": classification("非上述类型", "macro"),
    "KUAKE-QIC": classification("非上述类型", "macro"),
    "IMCS-V2-DAC": classification("非上述类型", "macro"),
    "MedDG": generation,
    "IMCS-V2-MRG": report,
}
METRICS["CMeIE-V2"] = METRICS["CMeIE"]
