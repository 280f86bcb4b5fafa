"""The report's first half: scores, intervals, and what the answers' format cost."""

from collections.abc import Iterator, Sequence
from typing import Any

from client.promptcblue.bootstrap import LEVEL, RESAMPLES
from client.promptcblue.scores import label_of_mean
from client.report_page.charts import Mark, intervals
from client.report_page.markup import Node, element, table

Scores = list[dict[str, Any]]  # as score.score gives them


def scores_section(results: Scores) -> Iterator[Node]:
    """The mean, all tasks as a plot and in figures, the format's cost of the first file."""
    yield from _summary(results)
    yield from _plot(results)
    yield from _table_of_scores(results)
    yield from _format_costs(results[0])


def _summary(results: Scores) -> Iterator[Node]:
    """The mean over tasks of each file, and what lies between them."""
    first = results[0]
    cards = []
    for each, series in zip(results, ("first", "second"), strict=False):
        name = f"{label_of_mean(each)} of {each['predictions']}"
        cards.append(_card(name, f"{each['overall']:.2%}", _between(each["interval"]), series))
    for each in results[1:]:
        step = each["difference"]
        cards.append(_card("difference", f"{step['score']:+.2%}", _between(step["interval"], "+")))
    rows = sum(task["rows"] for task in first["tasks"].values())
    cards.append(_card("rows", f"{rows:,}", f"{len(first['tasks'])} tasks"))
    yield element("div", *cards, class_="cards")


def _card(name: str, figure: str, note: str, series: str = "") -> Node:
    return element(
        "div", name, element("b", figure, class_=series), element("span", note, class_="quiet"),
        class_="card",
    )  # fmt: skip


def _plot(results: Scores) -> Iterator[Node]:
    """All tasks with their intervals, the mean last."""
    yield element("h2", "Scores")
    told = f"{LEVEL:.0%} intervals of {RESAMPLES:,} resamples of the rows"
    if results[1:]:
        names = [each["predictions"] for each in results]
        key = [element("span", f"● {name}  ", class_=series)
               for name, series in zip(names, ("first", "second"), strict=True)]  # fmt: skip
        yield element("p", *key)
    yield element("p", f"The bars are {told}, seed {results[0]['seed']}.", class_="quiet")
    lines = [
        (name, [_mark(each["tasks"][name], "score") for each in results])
        for name in sorted(results[0]["tasks"])
    ]
    lines.append((label_of_mean(results[0]), [_mark(each, "overall") for each in results]))
    yield intervals(lines)


def _mark(scores: dict[str, Any], name: str) -> Mark:
    return Mark(scores[name], scores["interval"])


def _table_of_scores(results: Scores) -> Iterator[Node]:
    """Every figure of the first file, and the difference to the second."""
    head = ["task", "metric", "rows", "score", "interval", *(["difference"] * len(results[1:]))]
    figures = {"precision": "precision", "recall": "recall", "f1": "F1",
               "rouge1": "Rouge-1", "rouge2": "Rouge-2", "rougeL": "Rouge-L"}  # fmt: skip
    lines = []
    for name, task in sorted(results[0]["tasks"].items()):
        line = [name, task["metric"], str(task["rows"]), f"{task['score']:.2%}"]
        line.append(_between(task["interval"]))
        for each in results[1:]:
            step = each["tasks"][name]["difference"]
            line.append(f"{step['score']:+.2%} {_between(step['interval'], '+')}")
        line += [f"{task[field]:.2%}" if field in task else "" for field in figures]
        lines.append(line)
    head += figures.values()
    yield table(head, lines, class_="numbers")


def _format_costs(result: dict[str, Any]) -> Iterator[Node]:
    """A lenient reading beside the official one, and the causes of what it finds."""
    yield element("h2", "What the answers' format cost")
    gain = f"would score {result['lenient']:.2%} instead of {result['overall']:.2%}"
    yield element("p", f"A reading that mends slips of format {gain}. It is not the score: where "
                  "both differ, work on the prompt or the end of answers; where they do not, on "
                  "the model.")  # fmt: skip
    causes = [*result["failures"]]
    if not causes:
        yield element("p", "No row lost anything to its format.")
        return
    lines = [
        [name, f"{task['score']:.2%}", f"{task['lenient']:.2%}",
         *(str(task["failures"].get(cause, "")) for cause in causes)]
        for name, task in sorted(result["tasks"].items())
        if task["failures"]
    ]  # fmt: skip
    totals = [str(result["failures"][cause]) for cause in causes]
    lines.append(["all", f"{result['overall']:.2%}", f"{result['lenient']:.2%}", *totals])
    yield table(["task", "score", "lenient", *(f"{c} (rows)" for c in causes)], lines,
                class_="numbers")  # fmt: skip


def _between(interval: Sequence[float], sign: str = "") -> str:
    low, high = interval
    return f"[{low:{sign}.1%}, {high:{sign}.1%}]"
