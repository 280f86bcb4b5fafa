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

    @property
    def is_told_from_zero(self) -> bool:
        """Whether the interval leaves zero out."""
        return not self.interval.low <= 0 <= self.interval.high

    @property
    def words(self) -> str:
        """What the interval allows to say; that no difference is seen proves none."""
        if not self.is_told_from_zero:
            return "not distinguishable from zero"
        return f"distinguishable from zero: {'better' if self.value > 0 else 'worse'}"

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
    """Of one file of predictions: `overall` is the mean over `tasks`.

    `same_texts` is how many of the answers are those of the first file, letter by letter.
    """

    overall: Score
    tasks: Mapping[str, TaskScores]
    predictions: str
    converter: str
    seed: int
    same_texts: int | None = None

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

    @property
    def differences(self) -> dict[str, Difference]:
        """Those to the first file, named as in `by_name`; of the first file itself none."""
        scores = self.by_name.items()
        return {name: each.difference for name, each in scores if each.difference}

    def compared(self, first: "Scores", same_texts: int) -> "Scores":
        """The same with the differences to the first file, overall and for each task."""
        tasks = {
            name: replace(task, score=task.score.compared(first.tasks[name].score))
            for name, task in self.tasks.items()
        }
        overall = self.overall.compared(first.overall)
        return replace(self, overall=overall, tasks=tasks, same_texts=same_texts)

    def as_json(self) -> Json:
        """As `--json` writes it."""
        compared = {} if self.same_texts is None else {"same_texts": self.same_texts}
        return {
            "overall": self.overall.value,
            "interval": self.overall.interval,
            "tasks": {name: task.as_json() for name, task in self.tasks.items()},
            **self.overall.details(),
            **compared,
            "predictions": self.predictions,
            "converter": self.converter,
            "seed": self.seed,
        }
