"""Scoring, task by task: PromptCBLUE's own reading of answers, and a lenient one beside it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from client.post_generate_process import Answer, structured
from client.promptcblue.bootstrap import resampled
from client.promptcblue.gold import Gold, Predictions
from client.promptcblue.leniency import lenient
from client.promptcblue.metrics import METRICS, Metric
from client.promptcblue.scores import Score, Scores, TaskScores
from client.rows import Row


def score(
    gold: Gold, predictions: Sequence[Predictions], *, converter: str = "head", seed: int = 0
) -> list[Scores]:
    """The scores of each file; those after the first have the differences to the first."""
    first, *others = (_scores(gold, each, converter, seed) for each in predictions)
    same = (_same_texts(predictions[0], each) for each in predictions[1:])
    return [first, *(each.compared(first, count) for each, count in zip(others, same, strict=True))]


def _same_texts(one: Predictions, other: Predictions) -> int:
    texts = other.targets
    return sum(text == texts[name] for name, text in one.targets.items())


def _scores(gold: Gold, predictions: Predictions, converter: str, seed: int) -> Scores:
    read = {
        task: _read(task, answers, predictions.rows[task], converter)
        for task, answers in gold.answers.items()
    }
    draws = resampled({task: each.samples for task, each in read.items()}, seed)
    tasks = {task: _task_scores(METRICS[task], each, draws[task]) for task, each in read.items()}
    failures = sum((each.failures for each in read.values()), Counter[str]())
    overall = _mean([task.score for task in tasks.values()], draws["overall"], failures)
    return Scores(overall, tasks, str(predictions.path), converter, seed)


def _mean(scores: Sequence[Score], draws: Sequence[float], failures: Counter[str]) -> Score:
    value = fmean(each.value for each in scores)
    return Score(value, draws, fmean(each.lenient for each in scores), _by_frequency(failures))


@dataclass(frozen=True)
class _Read:
    """A task's answers as its metric takes them, by both readings, and why these differ."""

    samples: list[Any]
    lenient: list[Any]
    failures: Counter[str]


def _read(task: str, gold: Mapping[str, Answer], rows: Sequence[Row], converter: str) -> _Read:
    read, metric = _Read([], [], Counter()), METRICS[task]
    for right, row in zip(gold.values(), rows, strict=True):
        sample = metric.sample(right, structured(row, converter))
        answer, causes = lenient(row, converter)
        read.samples.append(sample)
        read.lenient.append(metric.sample(right, answer) if causes else sample)
        read.failures.update(causes)
    return read


def _task_scores(metric: Metric, read: _Read, draws: Sequence[float]) -> TaskScores:
    figures = metric.total(read.samples)
    mended = metric.total(read.lenient)[metric.main]
    score = Score(figures[metric.main], draws, mended, _by_frequency(read.failures))
    return TaskScores(metric.name, len(read.samples), figures, score)


def _by_frequency(counts: Counter[str]) -> dict[str, int]:
    return dict(counts.most_common())
