"""Intervals by resampling: against theory, and paired."""

from math import sqrt

import pytest

from client.promptcblue.bootstrap import LEVEL, RESAMPLES, interval, resampled
from client.promptcblue.metrics import METRICS


def test_of_a_share_it_is_what_theory_says() -> None:
    right, wrong = ("甲", "甲"), ("甲", "乙")
    assert METRICS["KUAKE-IR"].total([right] * 300 + [wrong] * 100)["recall"] == 0.75
    counts = [(1, 1, 1)] * 300 + [(0, 1, 1)] * 100  # as many stated as wanted: F1 is the share
    low, high = interval(resampled({"CMeEE-V2": counts}, seed=1)["CMeEE-V2"])
    spread = 1.96 * sqrt(0.75 * 0.25 / 400)
    assert low == pytest.approx(0.75 - spread, abs=0.01)
    assert high == pytest.approx(0.75 + spread, abs=0.01)


def test_a_seed_gives_the_same_draws_whatever_was_predicted() -> None:
    better = [(1, 1, 1)] * 60 + [(0, 1, 1)] * 40
    worse = [(1, 1, 1)] * 59 + [(0, 1, 1)] * 41
    one, other = (resampled({"CHIP-CDN": each}, seed=3)["CHIP-CDN"] for each in (better, worse))
    assert all(a >= b for a, b in zip(one, other, strict=True))
    assert one == resampled({"CHIP-CDN": better}, seed=3)["CHIP-CDN"]
    assert one != resampled({"CHIP-CDN": better}, seed=4)["CHIP-CDN"]


def test_overall_is_the_mean_of_the_tasks_draw_by_draw() -> None:
    scores = resampled({"CHIP-CDN": [(1, 1, 1), (0, 1, 1)], "CMeIE": [(1, 2, 1)] * 2}, seed=0)
    means = [(a + b) / 2 for a, b in zip(scores["CHIP-CDN"], scores["CMeIE"], strict=True)]
    assert scores["overall"] == pytest.approx(means)
    assert len(means) == RESAMPLES


def test_the_interval_holds_its_share_of_the_values() -> None:
    low, high = interval([*range(1000)])
    assert (high - low + 1) / 1000 == pytest.approx(LEVEL, abs=0.002)
