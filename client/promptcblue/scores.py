"""Scores of predictions, task by task: PromptCBLUE's own, their intervals, a lenient reading."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from client.post_generate_process import structured
from client.promptcblue.bootstrap import interval, resampled
from client.promptcblue.gold import Gold, read_gold, read_predictions
from client.promptcblue.leniency import lenient
from client.promptcblue.metrics import METRICS
from client.rows import Row

TASKS = 16  # of the benchmark; a mean over fewer is not its overall score


def score(
    gold_path: Path,
    predictions: Sequence[Path],
    *,
    converter: str = "head",
    seed: int = 0,
) -> list[dict[str, Any]]:
    """The scores of each file, 0..1: `overall`, the mean over `tasks`, and each task's.

    Every score has its bootstrap `interval`. Those after the first have the `difference` to the
    first, too, overall and for each task, with the interval of a paired bootstrap. Raises
    InputError where a file does not fit.

    Apart from all that: `failures`, how many rows lost something to their format, by cause, and
    `lenient`, what the score would be without (client/promptcblue/leniency.py).
    """
    gold = read_gold(gold_path)
    found: list[dict[str, Any]] = []
    baseline: dict[str, list[float]] = {}
    for path in predictions:
        rows = read_predictions(path, gold, gold_path)
        statistics = {
            task: [
                METRICS[task].sample(right, structured(row, converter))
                for right, row in zip(each.values(), rows[task], strict=True)
            ]
            for task, each in gold.items()
        }
        draws = resampled(statistics, seed)
        result = _scores(statistics, draws)
        _add_leniency(result, statistics, gold, rows, converter)
        if found:
            _compare(result, found[0], draws, baseline)
        else:
            baseline = draws
        found.append(result | {"predictions": str(path), "converter": converter, "seed": seed})
    return found


def _scores(statistics: dict[str, list[Any]], draws: dict[str, list[float]]) -> dict[str, Any]:
    tasks: dict[str, dict[str, Any]] = {}
    for task, samples in statistics.items():
        metric = METRICS[task]
        scores = metric.total(samples)
        tasks[task] = {
            "metric": metric.name,
            "score": scores[metric.main],
            "interval": interval(draws[task]),
            "rows": len(samples),
            **scores,
        }
    return {
        "overall": fmean(each["score"] for each in tasks.values()),
        "interval": interval(draws["overall"]),
        "tasks": tasks,
    }


def _add_leniency(
    result: dict[str, Any],
    statistics: dict[str, list[Any]],
    gold: Gold,
    rows: dict[str, list[Row]],
    converter: str,
) -> None:
    total = Counter[str]()
    for task, scores in result["tasks"].items():
        failures, samples, metric = Counter[str](), [*statistics[task]], METRICS[task]
        for index, (right, row) in enumerate(zip(gold[task].values(), rows[task], strict=True)):
            answer, causes = lenient(row, converter)
            failures.update(causes)
            if causes:
                samples[index] = metric.sample(right, answer)
        scores["lenient"] = metric.total(samples)[metric.main]
        scores["failures"] = dict(failures.most_common())
        total += failures
    result["lenient"] = fmean(scores["lenient"] for scores in result["tasks"].values())
    result["failures"] = dict(total.most_common())


def _compare(
    result: dict[str, Any],
    first: dict[str, Any],
    draws: dict[str, list[float]],
    baseline: dict[str, list[float]],
) -> None:
    places = [(result, first["overall"], result["overall"], "overall")]
    for task, each in result["tasks"].items():
        places.append((each, first["tasks"][task]["score"], each["score"], task))
    for place, before, after, name in places:
        steps = [b - a for a, b in zip(baseline[name], draws[name], strict=True)]
        place["difference"] = {"score": after - before, "interval": interval(steps)}


def label_of_mean(result: dict[str, Any]) -> str:
    """What the mean over the tasks may be called."""
    tasks = len(result["tasks"])
    return "overall" if tasks >= TASKS else f"mean of {tasks} tasks"
