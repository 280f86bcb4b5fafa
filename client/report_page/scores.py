"""The report's first half: scores, intervals, and what the answers' format cost."""

from collections.abc import Iterable, Iterator, Sequence

from client.promptcblue.bootstrap import LEVEL, RESAMPLES
from client.promptcblue.scores import Score, Scores
from client.report_page.charts import intervals
from client.report_page.markup import Node, element, table


def scores_section(results: Sequence[Scores]) -> Iterator[Node]:
    """The mean, all tasks as a plot and in figures, the format's cost of the first file."""
    yield from _summary(results)
    yield from _plot(results)
    yield from _table_of_scores(results)
    yield from _format_costs(results[0])


def _summary(results: Sequence[Scores]) -> Iterator[Node]:
    """The mean over tasks of each file, and what lies between them."""
    first = results[0]
    cards, steps = [], []
    for each, series in zip(results, ("first", "second"), strict=False):
        name = f"{each.label} of {each.predictions}"
        figure, note = f"{each.overall.value:.2%}", each.overall.interval.text(".1%")
        cards.append(_card(name, figure, note, series))
        if step := each.overall.difference:
            steps.append(_card("difference", f"{step.value:+.2%}", step.interval.text("+.1%")))
    cards += steps
    cards.append(_card("rows", f"{first.rows:,}", f"{len(first.tasks)} tasks"))
    yield element("div", *cards, class_="cards")


def _card(name: str, figure: str, note: str, series: str = "") -> Node:
    return element(
        "div", name, element("b", figure, class_=series), element("span", note, class_="quiet"),
        class_="card",
    )  # fmt: skip


def _plot(results: Sequence[Scores]) -> Iterator[Node]:
    """All tasks with their intervals, the mean last."""
    yield element("h2", "Scores")
    told = f"{LEVEL:.0%} intervals of {RESAMPLES:,} resamples of the rows"
    if results[1:]:
        names = [each.predictions for each in results]
        key = [element("span", f"● {name}  ", class_=series)
               for name, series in zip(names, ("first", "second"), strict=True)]  # fmt: skip
        yield element("p", *key)
    yield element("p", f"The bars are {told}, seed {results[0].seed}.", class_="quiet")
    lines = [
        (name, [each.tasks[name].score for each in results]) for name in sorted(results[0].tasks)
    ]
    lines.append((results[0].label, [each.overall for each in results]))
    yield intervals(lines)


def _table_of_scores(results: Sequence[Scores]) -> Iterator[Node]:
    """Every figure of the first file, and the difference to the second."""
    head = ["task", "metric", "rows", "score", "interval", *(["difference"] * len(results[1:]))]
    figures = {"precision": "precision", "recall": "recall", "f1": "F1",
               "rouge1": "Rouge-1", "rouge2": "Rouge-2", "rougeL": "Rouge-L"}  # fmt: skip
    lines = []
    for name, task in sorted(results[0].tasks.items()):
        line = [name, task.metric, str(task.rows), f"{task.score.value:.2%}"]
        line.append(task.score.interval.text(".1%"))
        steps = [each.tasks[name].score.difference for each in results]
        line += [f"{step.value:+.2%} {step.interval.text('+.1%')}" for step in steps if step]
        line += [f"{task.figures[f]:.2%}" if f in task.figures else "" for f in figures]
        lines.append(line)
    head += figures.values()
    yield table(head, lines, class_="numbers")


def _format_costs(result: Scores) -> Iterator[Node]:
    """A lenient reading beside the official one, and the causes of what it finds."""
    yield element("h2", "What the answers' format cost")
    gain = f"would score {result.overall.lenient:.2%} instead of {result.overall.value:.2%}"
    yield element("p", f"A reading that mends slips of format {gain}. It is not the score: where "
                  "both differ, work on the prompt or the end of answers; where they do not, on "
                  "the model.")  # fmt: skip
    causes = result.overall.failures
    if not causes:
        yield element("p", "No row lost anything to its format.")
        return
    lines = [
        [name, *_format_cost(task.score, causes)]
        for name, task in sorted(result.tasks.items())
        if task.score.failures
    ]
    lines.append(["all", *_format_cost(result.overall, causes)])
    yield table(["task", "score", "lenient", *(f"{c} (rows)" for c in causes)], lines,
                class_="numbers")  # fmt: skip


def _format_cost(score: Score, causes: Iterable[str]) -> list[str]:
    counts = [str(score.failures.get(cause, "")) for cause in causes]
    return [f"{score.value:.2%}", f"{score.lenient:.2%}", *counts]
