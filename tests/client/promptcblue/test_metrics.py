"""The metrics against the official script's figures, and its quirks one by one."""

import json
from functools import partial
from statistics import mean
from typing import Any

import pytest

from client.post_generate_process import CONVERTERS, read_rows, results
from client.promptcblue.metrics import METRICS, Figures
from client.promptcblue.rouge import longest_common, rouge, tokens
from tests.paths import SCORING

VARIANTS = sorted(path.name.split(".")[0] for path in SCORING.glob("*.expected.json"))
GOLD = json.loads((SCORING / "dev_structured.json").read_text("utf-8"))


def scores_of(task: str, gold: list[Any], predicted: list[Any]) -> Figures:
    metric = METRICS[task]
    return metric.total([metric.sample(*pair) for pair in zip(gold, predicted, strict=True)])


@pytest.mark.parametrize("converter", CONVERTERS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_scores_equal_the_official_ones(variant: str, converter: str) -> None:
    expected = json.loads((SCORING / f"{variant}.expected.json").read_text("utf-8"))
    official = expected["official"][converter]
    made = results(read_rows(SCORING / f"{variant}.predictions.jsonl"), converter)
    mains = []
    for task, figures in official["tasks"].items():
        answers = {each["sample_id"]: each["answer"] for each in made[task]}
        gold = [each["answer"] for each in GOLD[task]]
        made_answers = [answers[each["sample_id"]] for each in GOLD[task]]
        scores = scores_of(task, gold, made_answers)
        wanted = {name.removeprefix("macro-"): value for name, value in figures.items()}
        assert scores == pytest.approx(wanted, abs=1e-9)
        mains.append(scores[METRICS[task].main])
    assert len(mains) == 16
    assert mean(mains) == pytest.approx(official["overall"], abs=1e-9)


def test_items_are_compared_by_their_values_and_lists_in_order() -> None:
    extraction = partial(scores_of, "CHIP-CDEE")
    gold = [[{"a": "1", "b": ["x", "y"]}, {"a": "2", "b": []}]]
    assert extraction(gold, [[{"A": "1", "B": ["x", "y"]}] * 2])["precision"] == 1
    assert extraction(gold, [[{"a": "1", "b": ["y", "x"]}]])["f1"] == 0
    assert extraction([[]], [[]])["f1"] == 0


def test_an_empty_label_is_the_tasks_first() -> None:
    assert scores_of("CHIP-STS", ["是的", "不是"], ["", "不是"])["f1"] == 1


def test_labels_count_alike_or_by_their_gold_samples() -> None:
    gold, made = ["甲", "甲", "甲", "乙"], ["甲", "甲", "甲", "丙"]
    assert scores_of("CHIP-CTC", gold, made)["f1"] == pytest.approx(1 / 3)
    assert scores_of("KUAKE-IR", gold, made)["f1"] == pytest.approx(3 / 4)


def test_reports_are_averaged_over_the_gold_sections() -> None:
    gold = [{"诊断": "感冒", "建议": "休息"}, {"诊断": "发热"}]
    made = [{"诊断": "感冒", "主诉": "头痛"}, {"诊断": "发热"}]
    assert scores_of("IMCS-V2-MRG", gold, made)["rougeL"] == pytest.approx(2 / 3)


def test_a_report_without_gold_sections_counts_nothing() -> None:
    assert scores_of("IMCS-V2-MRG", [{}], [{"诊断": "感冒"}])["rougeL"] == 0
    gold, made = [{}, {"诊断": "感冒"}], [{}, {"诊断": "感冒"}]
    assert scores_of("IMCS-V2-MRG", gold, made)["rougeL"] == pytest.approx(1)


def test_rouge_by_hand() -> None:
    scores = rouge("感冒了", "感冒")
    assert scores.rouge1 == pytest.approx(0.8)
    assert scores.rouge2 == pytest.approx(2 / 3)
    assert scores.rouge_l == pytest.approx(0.8)
    assert rouge("", "") == pytest.approx((1, 1, 1))
    assert rouge("无。", "").rouge2 == pytest.approx(1)


@pytest.mark.parametrize(
    ("one", "other", "length"),
    [("abcbdab", "bdcaba", 4), ("", "a", 0), ("aaa", "aa", 2), ("ab" * 200, "ba" * 200, 399)],
)
def test_longest_common_subsequence(one: str, other: str, length: int) -> None:
    assert longest_common(list(one), list(other)) == length


def test_tokens_are_berts() -> None:
    text = "Résumé：38.5℃\t，Vitamin-C片\x00\ufffd\u3000ＡＢ"
    assert tokens(text) == [
        "resume", "：", "38", ".", "5℃", "，", "vitamin", "-", "c", "片", "ａｂ",
    ]  # fmt: skip
