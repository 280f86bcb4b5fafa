"""Which series a PromQL expression asks for: found by its words, without a whole parser."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

STRING = r'"(?:[^"\\]|\\.)*"|\'(?:[^\'\\]|\\.)*\''
NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
GROUPING = r"(?:by|without|on|ignoring|group_left|group_right)\s*\("
TOKEN = re.compile(
    rf"""
    (?P<string>{STRING})
  | (?P<range>\[[^\]]*\])
  | (?P<grouping>\b{GROUPING}[^)]*\))
  | (?P<word>\b(?:and|or|unless|bool|offset|group_left|group_right|(?i:inf|nan))\b(?![:{{]))
  | (?P<call>{NAME})(?=\s*\(|\s+(?:by|without)\s*\()
  | (?P<metric>{NAME})\s*(?:\{{(?P<matchers>(?:[^{{}}"']|{STRING})*)\}})?
  | (?P<number>[0-9][0-9a-zA-Z_.]*)
  | (?P<nameless>\{{)
    """,
    re.VERBOSE,
)
MATCHER = re.compile(rf"\s*({NAME})\s*(=~|!~|!=|=)\s*({STRING})\s*(?:,|$)")


@dataclass(frozen=True)
class Series:
    """One sample of a scrape: its metric's name and all its labels."""

    metric: str
    labels: Mapping[str, str]


@dataclass(frozen=True)
class Selector:
    """A metric with its label matchers, as (label, operator, value)."""

    metric: str
    matchers: tuple[tuple[str, str, str], ...]

    def matches(self, series: Series) -> bool:
        """As Prometheus does it, but for this: each label must be there."""
        return series.metric == self.metric and all(
            label in series.labels and _holds(series.labels[label], operator, value)
            for label, operator, value in self.matchers
        )


def selectors(expression: str) -> list[Selector]:
    """What the expression reads, in order. Raises ValueError for what is not understood."""
    found = []
    for token in TOKEN.finditer(expression):
        if token["nameless"]:
            raise ValueError(f"a selector without a metric's name: {expression}")
        if token["metric"]:
            found.append(Selector(token["metric"], _matchers(token["matchers"] or "")))
    return found


def metric_names(expression: str) -> set[str]:
    """The names of all metrics that the expression reads."""
    return {selector.metric for selector in selectors(expression)}


def missing(expression: str, scraped: Sequence[Series]) -> list[Selector]:
    """The selectors that no scraped series matches."""
    return [
        selector
        for selector in selectors(expression)
        if not any(selector.matches(series) for series in scraped)
    ]


def _matchers(text: str) -> tuple[tuple[str, str, str], ...]:
    found, end = [], 0
    while text[end:].strip():
        match = MATCHER.match(text, end)
        if match is None:
            raise ValueError(f"no label matcher: {text[end:]}")
        found.append((match[1], match[2], match[3][1:-1].replace("\\\\", "\\")))
        end = match.end()
    return tuple(found)


def _holds(actual: str, operator: str, value: str) -> bool:
    equal = re.fullmatch(value, actual) if operator.endswith("~") else actual == value
    return bool(equal) is not operator.startswith("!")
