"""The report as one HTML page that loads nothing and runs nothing, made of the templates here."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from client.prediction.journal import Entry
from client.promptcblue.analysis import analysed, by_kind, confusion, item_errors, worst
from client.promptcblue.bootstrap import LEVEL, RESAMPLES
from client.promptcblue.gold import Gold, Predictions
from client.promptcblue.metrics import EXTRACTION, METRICS
from client.promptcblue.scores import Scores
from client.report_page.histograms import Histogram, histograms

# what no HTML may hold: controls, halves of pairs, noncharacters
_FORBIDDEN = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]"
)


def page(
    model: str, gold: Gold, made: Predictions, results: Sequence[Scores], entries: Sequence[Entry]
) -> Iterator[str]:
    """What `made` scores and where it goes wrong, piece by piece.

    `results` are its scores and perhaps another's to compare, `entries` those of its journal.
    """
    template = _templates().get_template("page.html.jinja")
    samples = analysed(gold.answers, made.rows, results[0].converter)
    return template.generate(
        model=model, gold=gold, results=results, samples=samples, entries=entries,
        characters=_lengths(gold, made), tokens=_tokens(entries), seconds=_seconds(entries),
    )  # fmt: skip


def _templates() -> Environment:
    """Every text is escaped, and what no template knows is an error."""
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined,
        autoescape=True, finalize=_shown, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    templates.filters["number"] = format
    templates.globals.update(
        {"level": LEVEL, "resamples": RESAMPLES, "metrics": METRICS, "extraction": EXTRACTION},
        by_kind=by_kind, confusion=confusion, item_errors=item_errors, worst=worst, median=median,
    )  # fmt: skip
    return templates


def _shown(value: object) -> object:
    """What stands in the page for a value; markup is made of such."""
    return value if isinstance(value, Markup) else _FORBIDDEN.sub("�", str(value))


def _lengths(gold: Gold, made: Predictions) -> list[Histogram]:
    texts = {"predicted": made.targets, "gold": gold.targets}
    lengths = {name: [len(text) for text in each.values()] for name, each in texts.items()}
    return histograms(lengths, "characters")


def _tokens(entries: Sequence[Entry]) -> list[Histogram]:
    counts = [(entry.get("usage") or {}).get("completion_tokens") for entry in entries]
    return histograms({"predicted": [count for count in counts if count is not None]}, "tokens")


def _seconds(entries: Sequence[Entry]) -> list[Histogram]:
    seconds = [entry["seconds"] for entry in entries if "seconds" in entry]
    return histograms({"from sending a row's list to its answer": seconds}, "s")
