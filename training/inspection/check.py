"""What is wrong with data, or odd: every row at once, before a model is loaded."""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median, quantiles

from training.data.collate import EncodedSample
from training.data.messages import Message, Row
from training.errors import TrainingError

SHOWN = 20
"""Places that a line of text lists; the JSON has all."""
FEW = 50
"""Different answers, at most, that are taken for labels."""
Encode = Callable[[Row], Sequence[EncodedSample]]


@dataclass(frozen=True)
class Finding:
    """One kind of problem, and where it is."""

    kind: str
    text: str
    where: list[str]
    refused: bool
    """Whether training would refuse the data for it."""

    @property
    def lines(self) -> list[str]:
        """For people: not all places."""
        verdict = "error" if self.refused else "warning"
        shown = [f"  {place}" for place in self.where[:SHOWN]]
        more = len(self.where) - len(shown)
        rest = [f"  … and {more:,} more (--json lists all)"] if more else []
        return [f"{verdict}: {self.text}", *shown, *rest]


@dataclass
class Report:
    """All that was found."""

    findings: list[Finding] = field(default_factory=list)
    rows: dict[str, int] = field(default_factory=dict)
    tokens: dict[str, dict[str, int]] = field(default_factory=dict)
    """Lengths of the samples by file: smallest, median, 95 %, largest, sum."""
    labels: dict[str, dict[str, int]] = field(default_factory=dict)
    """How often each answer comes, by task, where they are few."""

    @property
    def refused(self) -> bool:
        """Whether training would refuse the data."""
        return any(finding.refused for finding in self.findings)

    def as_json(self) -> str:
        """Everything, for programs."""
        return json.dumps({**asdict(self), "refused": self.refused}, ensure_ascii=False, indent=2)

    def as_text(self) -> str:
        """Everything, for people."""
        lines = [f"{name}: {n:,} rows{self._lengths(name)}" for name, n in self.rows.items()]
        for task, counts in self.labels.items():
            lines.append(f"labels of {task}: " + ", ".join(f"{k} {n:,}" for k, n in counts.items()))
        for finding in self.findings:
            lines += finding.lines
        verdict = "would refuse this data" if self.refused else "takes this data"
        return "\n".join([*lines, f"training {verdict}"])

    def _lengths(self, name: str) -> str:
        found = self.tokens.get(name)
        if not found:
            return ""
        return (
            f", {found['sum']:,} tokens; a sample has {found['smallest']:,} to"
            f" {found['largest']:,}, median {found['median']:,}, 95 % up to {found['95 %']:,}"
        )


@dataclass(frozen=True)
class File:
    """The rows of one file, and what is wrong with those that are none."""

    name: str
    rows: Sequence[Row]
    problems: Sequence[str]
    answered: bool = True
    """False: a test set, of which prompts alone are looked at."""


def check(train: Sequence[File], others: Sequence[File], encode: Encode, max_length: int) -> Report:
    """Look at all rows of `train`, and at those that are held out in `others`."""
    report = Report()
    for file in [*train, *others]:
        report.rows[file.name] = len(file.rows) + len(file.problems)
        _add(report, "unusable", "rows that cannot be read", file.problems, refused=True)
        _check_samples(report, file, encode, max_length)
    rows = [row for file in train for row in file.rows]
    _check_repeats(report, rows)
    for file in others:
        _check_leaks(report, rows, file)
    report.labels = _labels(rows)
    return report


def _add(report: Report, kind: str, text: str, where: Iterable[str], *, refused: bool) -> None:
    places = [*where]
    if places:
        report.findings.append(Finding(kind, f"{len(places):,} {text}", places, refused))


def _check_samples(report: Report, file: File, encode: Encode, max_length: int) -> None:
    refused: list[str] = []
    samples = [pair for row in file.rows for pair in _samples(row, encode, refused)]
    _add(report, "refused", "rows that cannot be rendered", refused, refused=True)
    text = f"prompts that lose tokens to fit data.max_length={max_length}"
    _add(report, "cut", text, _cut(samples), refused=False)
    if samples:
        ids = (each.ids if file.answered else each.prompt_ids for _, each in samples)
        report.tokens[file.name] = _spread(sorted(map(len, ids)))


def _cut(samples: Iterable[tuple[Row, EncodedSample]]) -> list[str]:
    return [f"{row.where}: {each.cut_tokens:,} tokens" for row, each in samples if each.cut_tokens]


def _samples(row: Row, encode: Encode, refused: list[str]) -> list[tuple[Row, EncodedSample]]:
    try:
        return [(row, sample) for sample in encode(row)]
    except TrainingError as error:
        refused.append(str(error))
        return []


def _spread(lengths: list[int]) -> dict[str, int]:
    high = quantiles(lengths, n=20)[-1] if len(lengths) > 1 else lengths[0]
    return {
        **{"smallest": lengths[0], "median": round(median(lengths))},
        **{"95 %": min(round(high), lengths[-1]), "largest": lengths[-1], "sum": sum(lengths)},
    }


def _check_repeats(report: Report, rows: Sequence[Row]) -> None:
    answers: defaultdict[str, dict[str, str]] = defaultdict(dict)
    twice, otherwise = [], []
    for row in rows:
        asked, answer = _key(row.messages[:-1]), _key(row.messages[-1:])
        known = answers[asked]
        if answer in known:
            twice.append(f"{row.where}: as {known[answer]}")
        elif known:
            otherwise.append(f"{row.where}: asks as {next(iter(known.values()))}")
        known.setdefault(answer, row.where)
    _add(report, "duplicates", "rows that are there already", twice, refused=False)
    text = "rows that ask the same and answer otherwise"
    _add(report, "contradictions", text, otherwise, refused=False)


def _check_leaks(report: Report, rows: Sequence[Row], file: File) -> None:
    trained = {_key(row.messages[:-1]): row.where for row in rows}
    keys = ((row, _key(row.messages[:-1])) for row in file.rows)
    shared = [f"{row.where}: as {trained[key]}" for row, key in keys if key in trained]
    _add(report, "shared", f"prompts of {file.name} that are trained", shared, refused=False)


def _key(messages: Sequence[Message]) -> str:
    return json.dumps(messages, ensure_ascii=False, sort_keys=True)


def _labels(rows: Sequence[Row]) -> dict[str, dict[str, int]]:
    tasks: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        if row.task is not None:
            tasks[row.task][row.messages[-1]["content"].strip()] += 1
    few: Mapping[str, Counter[str]] = {
        task: counts
        for task, counts in sorted(tasks.items())
        if len(counts) <= min(FEW, max(1, counts.total() // 2))
    }
    return {task: dict(counts.most_common()) for task, counts in few.items()}
