import pytest

from tests.monitoring.promql import Selector, Series, metric_names, missing, selectors

SCRAPED = [
    Series("requests_total", {"job": "serve", "outcome": "ok"}),
    Series("vllm:num_requests_waiting", {"job": "serve"}),
]


@pytest.mark.parametrize(
    ("expression", "names"),
    [
        ("up", {"up"}),
        ("sum(vllm:num_requests_waiting) or vector(0)", {"vllm:num_requests_waiting"}),
        ("sum by (le, route) (rate(a_bucket[5m]))", {"a_bucket"}),
        ("sum(rate(a_bucket[$__rate_interval])) by (le)", {"a_bucket"}),
        ('a{b="c", d=~"e|f"} / on (g) group_left h offset 1h > bool 0.5e3', {"a", "h"}),
        ('a{b="x by (y) {z} or w"} and b unless c', {"a", "b", "c"}),
        ("histogram_quantile(0.95, sum by (le) (rate(a[1m]))) < scalar(sum(b))", {"a", "b"}),
        ("-order * android + by_route", {"order", "android", "by_route"}),
        ("max_over_time(a[10m:1m] @ end()) == Inf", {"a"}),
    ],
)
def test_metrics_are_told_from_functions_labels_and_words(expression: str, names: set[str]) -> None:
    assert metric_names(expression) == names


def test_selectors_come_with_their_matchers() -> None:
    assert selectors(r"""rate(a{b="c", d!~'\\d+',}[5m]) > b""") == [
        Selector("a", (("b", "=", "c"), ("d", "!~", r"\d+"))),
        Selector("b", ()),
    ]


@pytest.mark.parametrize("expression", ['{__name__="a"}', "a{b}", "a{b=c}"])
def test_what_is_not_understood_is_not_passed_over(expression: str) -> None:
    with pytest.raises(ValueError, match=r"selector|matcher"):
        selectors(expression)


@pytest.mark.parametrize(
    "expression",
    [
        'requests_total{job="serve", outcome=~"o.|no"}',
        'requests_total{outcome!="error"}',
        "sum(vllm:num_requests_waiting)",
    ],
)
def test_what_was_scraped_is_not_missing(expression: str) -> None:
    assert missing(expression, SCRAPED) == []


@pytest.mark.parametrize(
    "expression",
    [
        "request_total",
        'requests_total{job="other"}',
        'requests_total{outcom="ok"}',
        'requests_total{outcom!="error"}',
        'requests_total{outcome=~"o"}',
        'requests_total{outcome!~"o.*"}',
    ],
)
def test_a_wrong_name_label_or_value_is_missing(expression: str) -> None:
    assert [found.metric for found in missing(expression, SCRAPED)] == [expression.split("{")[0]]
