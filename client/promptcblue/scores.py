"""What predictions score, and the JSON of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from client.promptcblue.bootstrap import Interval, interval

TASKS = 16  # of the benchmark; a mean over fewer is not its overall score
Json = dict[str, object]


@dataclass(frozen=True)
class Difference:
    """To the first file's score, with the interval of a paired bootstrap."""

    value: float
    interval: Interval

    def as_json(self) -> Json:
        """As `--json` writes it."""
        return {"score": self.value, "interval": self.interval}


@dataclass(frozen=True)
class Score:
    """Of one task, or the mean over all; 0..1, and what resamples of the rows score.

    Apart from it: `failures`, how many rows lost something to their format, by cause, and
    `lenient`, what the score would be without (client/promptcblue/leniency.py).
    """

    value: float
    draws: Sequence[float] = field(repr=False)
    lenient: float
    failures: Mapping[str, int]
    difference: Difference | None = None

    @property
    def interval(self) -> Interval:
        """The bootstrap interval."""
        return interval(self.draws)

    def compared(self, first: "Score") -> "Score":
        """The same with its difference to the score of the first file."""
        steps = [b - a for a, b in zip(first.draws, self.draws, strict=True)]
        return replace(self, difference=Difference(self.value - first.value, interval(steps)))

    def details(self) -> Json:
        """What its JSON holds beside the score itself."""
        found: Json = {"lenient": self.lenient, "failures": self.failures}
        return found | ({"difference": self.difference.as_json()} if self.difference else {})


@dataclass(frozen=True)
class TaskScores:
    """One task's score by the benchmark's metric, and all figures of that metric."""

    metric: str
    rows: int
    figures: Mapping[str, float]
    score: Score

    def as_json(self) -> Json:
        """As `--json` writes it."""
        own = {"metric": self.metric, "score": self.score.value, "interval": self.score.interval}
        return {**own, "rows": self.rows, **self.figures, **self.score.details()}


@dataclass(frozen=True)
class Scores:
    """Of one file of predictions: `overall` is the mean over `tasks`."""

    overall: Score
    tasks: Mapping[str, TaskScores]
    predictions: str
    converter: str
    seed: int

    @property
    def label(self) -> str:
        """What the mean over the tasks may be called."""
        return "overall" if len(self.tasks) >= TASKS else f"mean of {len(self.tasks)} tasks"

    @property
    def rows(self) -> int:
        """Of all tasks."""
        return sum(task.rows for task in self.tasks.values())

    @property
    def by_name(self) -> dict[str, Score]:
        """Each task's score, in the order of their names, and last the mean."""
        scores = {name: task.score for name, task in sorted(self.tasks.items())}
        return scores | {self.label: self.overall}

    def compared(self, first: "Scores") -> "Scores":
        """The same with the differences to the first file, overall and for each task."""
        tasks = {
            name: replace(task, score=task.score.compared(first.tasks[name].score))
            for name, task in self.tasks.items()
        }
        return replace(self, overall=self.overall.compared(first.overall), tasks=tasks)

    def as_json(self) -> Json:
        """As `--json` writes it."""
        return {
            "overall": self.overall.value,
            "interval": self.overall.interval,
            "tasks": {name: task.as_json() for name, task in self.tasks.items()},
            **self.overall.details(),
            "predictions": self.predictions,
            "converter": self.converter,
            "seed": self.seed,
        }
