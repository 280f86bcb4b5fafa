"""Which series a PromQL expression reads, and whether they were scraped."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from promql_parser import Expr, Matcher, MatchOp, VectorSelector, parse, walk


@dataclass(frozen=True)
class Series:
    """One sample of a scrape: its metric's name and all its labels."""

    metric: str
    labels: Mapping[str, str]


def selectors(expression: str) -> list[VectorSelector]:
    """What the expression reads, in order. Raises ValueError for what is no PromQL."""
    found = []

    def note(part: Expr) -> None:
        if isinstance(part, VectorSelector):
            found.append(part)

    walk(parse(expression), note)
    return found


def missing(expression: str, scraped: Sequence[Series]) -> list[VectorSelector]:
    """The selectors that no scraped series matches."""
    return [
        selector
        for selector in selectors(expression)
        if not any(_matches(selector, series) for series in scraped)
    ]


def _matches(selector: VectorSelector, series: Series) -> bool:
    """As Prometheus does it, but for this: each label must be there."""
    return series.metric == selector.name and all(
        matcher.name in series.labels and _holds(matcher, series.labels[matcher.name])
        for matcher in selector.matchers.matchers
    )


def _holds(matcher: Matcher, actual: str) -> bool:
    if matcher.op in (MatchOp.Re, MatchOp.NotRe):
        equal = re.fullmatch(matcher.value, actual) is not None
    else:
        equal = actual == matcher.value
    return equal is (matcher.op in (MatchOp.Equal, MatchOp.Re))
