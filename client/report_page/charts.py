"""Charts of HTML and CSS alone: they fit every width, and their texts keep their size."""

from collections.abc import Sequence
from typing import Any
from xml.etree.ElementTree import Element

from client.promptcblue.scores import Score
from client.report_page.markup import element

BINS = 24
BEYOND = 0.99  # of the values lie within the bins; the last bin holds the rest, too


def intervals(rows: Sequence[tuple[str, Sequence[Score]]]) -> Element:
    """A line a name: for each series a point within its interval, on a scale of 0 to 100 %."""
    lines = []
    for name, scores in rows:
        tracks = [
            element("div", *_track(each), class_=f"track series-{number}")
            for number, each in enumerate(scores)
        ]
        values = [f"{each.value:.1%}" for each in scores]
        lines.append(
            element(
                "div",
                element("span", name, class_="name"),
                element("div", *tracks, class_="tracks"),
                element("span", " → ".join(values), class_="value"),
                class_="line",
            )
        )
    scale = element("div", *(element("span", f"{step} %") for step in (0, 50, 100)), class_="scale")
    axis = element("div", element("span"), scale, element("span"), class_="line axis")
    return element("div", *lines, axis, class_="intervals")


def _track(score: Score) -> list[Element]:
    low, high = score.interval
    return [
        element("span", class_="range", style=f"left:{low:.2%};width:{high - low:.2%}"),
        element("span", class_="point", style=f"left:{score.value:.2%}"),
    ]


def histograms(series: Sequence[tuple[str, Sequence[float]]], unit: str) -> Element:
    """One below the other, in the same bins; every series has values."""
    values = sorted(value for _, each in series for value in each)
    top = values[int(BEYOND * (len(values) - 1))]
    width = max(top / BINS, 1.0 if unit != "s" else 0.001)
    return element(
        "div", *(_histogram(name, each, width, unit) for name, each in series), class_="histograms"
    )


def _histogram(name: str, values: Sequence[float], width: float, unit: str) -> Element:
    counts = [0] * BINS
    for value in values:
        counts[min(int(value / width), BINS - 1)] += 1
    bars = [
        element(
            "span",
            style=f"height:{count / max(counts):.1%}",
            title=f"from {place * width:.4g} {unit}: {count}",
        )
        for place, count in enumerate(counts)
    ]
    ordered = sorted(values)
    middle, late = (ordered[int(part * (len(ordered) - 1))] for part in (0.5, 0.95))
    facts = f"median {middle:.4g}, 95 % up to {late:.4g}, longest {ordered[-1]:.4g} {unit}"
    ends = [f"{place:.4g}" for place in (0, BINS / 2 * width)] + [f"≥ {(BINS - 1) * width:.4g}"]
    return element(
        "figure",
        element("figcaption", f"{name}: {facts}"),
        element("div", *bars, class_="bars"),
        element("div", *(element("span", f"{end} {unit}") for end in ends), class_="scale"),
    )


def heat(share: float) -> dict[str, Any]:
    """The attributes of a cell that is shaded by `share`, 0..1."""
    return {"style": f"--share:{share * 60:.0f}%", "class_": "heat"}
