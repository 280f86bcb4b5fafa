import pytest

from tests.monitoring.promql import Series, missing

SCRAPED = [
    Series("requests_total", {"job": "serve", "outcome": "ok"}),
    Series("vllm:num_requests_waiting", {"job": "serve"}),
]


@pytest.mark.parametrize(
    ("expression", "names"),
    [
        ('requests_total{job="serve", outcome=~"o.|no"}', []),
        ('requests_total{outcome!="error"}', []),
        ("sum(vllm:num_requests_waiting) or vector(0)", []),
        ("request_total", ["request_total"]),
        ('requests_total{job="other"}', ["requests_total"]),
        ('requests_total{outcom="ok"}', ["requests_total"]),
        ('requests_total{outcom!="error"}', ["requests_total"]),
        ('requests_total{outcome=~"o"}', ["requests_total"]),
        ('requests_total{outcome!~"o.*"}', ["requests_total"]),
        (
            "sum by (outcome) (rate(a[5m])) / on (job) group_left max_over_time(b[9m:1m])",
            ["a", "b"],
        ),
        ("-requests_total offset 1h < bool scalar(sum(c)) unless requests_total", ["c"]),
        ('{job="serve"}', [None]),
    ],
)
def test_a_wrong_name_label_or_value_is_missing(expression: str, names: list[str | None]) -> None:
    assert [selector.name for selector in missing(expression, SCRAPED)] == names


@pytest.mark.parametrize("expression", ["a{b}", "a{b=c}"])
def test_what_is_no_promql_is_an_error(expression: str) -> None:
    with pytest.raises(ValueError, match="label"):
        missing(expression, SCRAPED)
