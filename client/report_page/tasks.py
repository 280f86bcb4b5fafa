"""The report's second half: lengths and latencies, then each task's rows, labels and items."""

from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from client.prediction.journal import Entry
from client.promptcblue.analysis import (
    RIGHT,
    Confusion,
    ItemError,
    Sample,
    by_kind,
    confusion,
    item_errors,
    worst,
)
from client.promptcblue.metrics import EXTRACTION, METRICS
from client.promptcblue.scores import TaskScores
from client.report_page.charts import heat, histograms
from client.report_page.markup import Node, element, folded, table

WORST_ROWS = 5
MOST_ITEMS = 100
NOTHING = "(nothing)"


def answers_section(
    samples: Mapping[str, Sequence[Sample]], targets: Mapping[str, str], entries: Sequence[Entry]
) -> Iterator[Node]:
    """How long answers are, and how long they took; gold targets and a journal may be missing."""
    rows = [each.row for task in samples.values() for each in task]
    yield element("h2", "Lengths and latencies")
    lengths = [("predicted", [len(row["target"]) for row in rows])]
    if targets:
        lengths.append(("gold", [len(targets[row["sample_id"]]) for row in rows]))
    yield histograms(lengths, "characters")
    yield from _measured(entries)


def _tokens(entry: Entry) -> int | None:
    return (entry.get("usage") or {}).get("completion_tokens")


def _measured(entries: Sequence[Entry]) -> Iterator[Node]:
    tokens = [count for count in map(_tokens, entries) if count is not None]
    seconds = [entry["seconds"] for entry in entries if "seconds" in entry]
    if tokens:
        yield histograms([("predicted", tokens)], "tokens")
    if seconds:
        yield histograms([("from sending a row's list to its answer", seconds)], "s")
    else:
        yield element("p", "No journal beside the predictions tells latencies.", class_="quiet")
    cut = sum(entry.get("finish_reason") == "length" for entry in entries)
    if cut:
        told = f"{cut} of {len(entries)} answers were cut at max_tokens: raise it."
        yield element("p", told, class_="second")


def task_section(
    task: str, scores: TaskScores, samples: Sequence[Sample], texts: Mapping[str, str]
) -> Node:
    """One task, folded: what its kind of metric can show, then its worst rows."""
    right = sum(each.score >= RIGHT for each in samples)
    title = (
        f"{task}: {scores.score.value:.2%} {scores.metric}, {right} of {len(samples)} rows right"
    )
    if METRICS[task].is_label:
        parts = _labels(confusion(samples))
    elif METRICS[task] is EXTRACTION:
        parts = _items(samples)
    else:
        told = f"Half of the rows score {median(each.score for each in samples):.1%} or less."
        parts = [element("p", told)]
    bad = worst(samples, WORST_ROWS)
    if bad:
        parts.append(element("h3", "Worst rows"))
    return folded(title, *parts, *(_row(each, texts) for each in bad))


def _row(sample: Sample, texts: Mapping[str, str]) -> Node:
    name = sample.row["sample_id"]
    columns = [("input", sample.row["input"]), ("gold", texts.get(name, "")),
               ("prediction", sample.row["target"])]  # fmt: skip
    sides = [
        element("div", element("h4", head), element("pre", text or NOTHING))
        for head, text in columns
    ]
    told = f"{sample.score:.1%}"
    if METRICS[sample.row["task_dataset"]].is_label:
        told = f"{sample.gold} → {sample.predicted or NOTHING}"
    return folded(f"{name}: {told}", element("div", *sides, class_="sides"))


def _labels(found: Confusion) -> list[Node]:
    head: list[Node] = [
        "gold ↓ predicted →",
        *(element("span", label) for label in found.predicted),
    ]
    lines = []
    for gold in found.gold:
        counts = {made: found.counts[gold, made] for made in found.predicted}
        rows = sum(counts.values())
        cells = [_count(count, rows, right=gold == made) for made, count in counts.items()]
        lines.append([f"{gold} ({rows})", *cells])
    return [element("h3", "Confusion matrix"), table(head, lines, class_="confusion")]


def _count(count: int, rows: int, *, right: bool) -> Node:
    if not count:
        return ""
    attributes = heat(count / rows)
    attributes["class_"] += " right" if right else ""
    return element("span", str(count), **attributes)


def _items(samples: Sequence[Sample]) -> list[Node]:
    parts: list[Node] = []
    kinds = by_kind(samples)
    if kinds:
        head, fields = (
            ["kind", "wanted", "precision", "recall", "F1"],
            ["precision", "recall", "f1"],
        )
        lines = [
            [kind, str(each["wanted"]), *(f"{each[field]:.1%}" for field in fields)]
            for kind, each in kinds.items()
        ]
        parts += [element("h3", "Kinds of items"), table(head, lines, class_="numbers")]
    missed, spurious = item_errors(samples)
    if missed:
        parts.append(_item_list("Missed", "items of the gold answers alone", missed))
    if spurious:
        parts.append(_item_list("Spurious", "items of the predictions alone", spurious))
    return parts


def _item_list(name: str, meaning: str, errors: Sequence[ItemError]) -> Node:
    lines = [[each.sample_id, _told(each.item)] for each in errors[:MOST_ITEMS]]
    rest = len(errors) - len(lines)
    more = [element("p", f"… and {rest:,} more", class_="quiet")] if rest else []
    return folded(f"{name}: {len(errors):,} {meaning}", table(["sample_id", "item"], lines), *more)


def _told(item: dict[str, Any]) -> str:
    values = [
        "，".join(value) if isinstance(value, list) else str(value) for value in item.values()
    ]
    return " · ".join(value or "–" for value in values)
