"""What went wrong, row by row, label by label and item by item."""

from typing import Any

from client.promptcblue.analysis import (
    OTHER,
    Sample,
    analysed,
    by_kind,
    confusion,
    item_errors,
    worst,
)
from client.promptcblue.gold import Answers


def extraction(*pairs: tuple[str, str]) -> list[Any]:
    """Samples of CMeEE-V2; each side as `kind:entity kind:entity`."""

    def text(items: str) -> str:
        return "\n".join("{}实体：{}".format(*item.split(":")) for item in items.split())

    def answer(items: str) -> list[dict[str, str]]:
        return [
            {"entity": entity, "type": kind}
            for kind, entity in (item.split(":") for item in items.split())
        ]

    gold: Answers = {"CMeEE-V2": {str(i): answer(right) for i, (right, _) in enumerate(pairs)}}
    rows = [row("CMeEE-V2", str(i), text(made), ["病", "药"]) for i, (_, made) in enumerate(pairs)]
    return analysed(gold, {"CMeEE-V2": rows}, "head")["CMeEE-V2"]


def labels(*pairs: tuple[str, str]) -> list[Any]:
    gold: Answers = {"CHIP-CTC": {str(i): right for i, (right, _) in enumerate(pairs)}}
    rows = [row("CHIP-CTC", str(i), made, ["甲", "乙"]) for i, (_, made) in enumerate(pairs)]
    return analysed(gold, {"CHIP-CTC": rows}, "head")["CHIP-CTC"]


def row(task: str, name: str, target: str, choices: list[str]) -> dict[str, Any]:
    return {
        "sample_id": name, "task_dataset": task, "target": target, "answer_choices": choices,
        "input": "?", "task_type": "?",
    }  # fmt: skip


def test_missed_and_spurious_items_name_their_rows() -> None:
    missed, spurious = item_errors(extraction(("病:a 药:b", "病:a 药:c 药:c"), ("病:d", "")))
    assert [(each.sample_id, each.item["entity"]) for each in missed] == [("0", "b"), ("1", "d")]
    assert [(each.sample_id, each.item["entity"]) for each in spurious] == [("0", "c")]


def test_kinds_that_no_gold_item_has_stand_together() -> None:
    triples = [
        {"predicate": kind, "subject": "a", "object": "b"} for kind in ("治疗", "奇怪", "更怪")
    ]
    one = Sample(row("CMeIE", "0", "", []), triples[:1], triples, 0.5)
    found = by_kind([one])
    assert list(found) == ["治疗", OTHER]
    assert found[OTHER]["wanted"] == 0


def test_each_kind_of_items_has_figures_of_its_own() -> None:
    found = by_kind(extraction(("病:a 药:b", "病:a 药:c"), ("病:d", "病:d 病:e")))
    assert list(found) == ["病", "药"]
    assert found["病"] == {"wanted": 2, "precision": 2 / 3, "recall": 1, "f1": 0.8}
    assert found["药"] == {"wanted": 1, "precision": 0, "recall": 0, "f1": 0}
    assert by_kind(extraction(("病:a", "病:a"))) == {}


def test_the_worst_rows_come_first_and_right_ones_never() -> None:
    samples = extraction(
        ("病:a", "病:a"), ("病:a 病:b", "病:a"), ("", ""), ("病:a", ""), ("", "病:x")
    )
    assert [each.row["sample_id"] for each in worst(samples, 9)] == ["3", "4", "1"]
    assert [each.row["sample_id"] for each in worst(samples, 1)] == ["3"]


def test_an_answer_of_nothing_stands_where_the_metric_puts_it() -> None:
    found = confusion(labels(("非上述类型", ""), ("甲", "")))
    assert found.counts == {("非上述类型", "非上述类型"): 1, ("甲", "非上述类型"): 1}


def test_a_confusion_matrix_counts_every_row_once() -> None:
    samples = labels(
        ("甲", "甲"), ("甲", "乙"), ("乙", "乙"), ("甲", "丙"), ("乙", "丁"), ("甲", "甲")
    )
    found = confusion(samples)
    assert found.gold == ["甲", "乙"]
    assert found.predicted == ["甲", "乙", OTHER]
    assert found.counts == {
        ("甲", "甲"): 2, ("甲", "乙"): 1, ("甲", OTHER): 1, ("乙", "乙"): 1, ("乙", OTHER): 1,
    }  # fmt: skip
