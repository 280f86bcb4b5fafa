"""The real Prometheus takes every expression, and draws every panel from real traffic."""

import re

import pytest

from tests.monitoring.definitions import alerts, scaler_queries, targets
from tests.monitoring.prometheus import Prometheus, has_data

pytestmark = pytest.mark.e2e


def test_both_jobs_are_scraped_as_they_are_configured(prometheus: Prometheus) -> None:
    prometheus.wait_healthy({"serve", "balancer"})


def test_every_alert_is_evaluated_and_none_fires(prometheus: Prometheus) -> None:
    rules = [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]
    assert {rule["name"] for rule in rules} == {alert["alert"] for alert in alerts()}
    assert {rule["health"] for rule in rules} == {"ok"}, [rule.get("lastError") for rule in rules]
    assert [rule["name"] for rule in rules if rule["state"] == "firing"] == []


def test_every_panel_has_data(prometheus: Prometheus) -> None:
    results = {
        (title, expression): prometheus.query(expression) for title, expression, _ in targets()
    }
    assert [which for which, found in results.items() if not has_data(found)] == []


def test_every_legend_names_labels_that_are_there(prometheus: Prometheus) -> None:
    wrong = [
        f"{title}: {label}"
        for title, expression, legend in targets()
        for label in re.findall(r"{{(\w+)}}", legend)
        if not all(result.labels.get(label) for result in prometheus.query(expression))
    ]
    assert wrong == []


def test_the_scaler_gets_one_element_also_where_nothing_is_scraped(prometheus: Prometheus) -> None:
    for query in scaler_queries():
        assert len(prometheus.query(query)) == 1
        assert len(prometheus.query(query.replace("vllm:", "nothing:"))) == 1


def test_a_broken_panel_is_noticed(prometheus: Prometheus) -> None:
    assert has_data(prometheus.query("sum(rate(vllm:generation_tokens_total[20s]))"))
    assert not has_data(prometheus.query("sum(rate(vllm:generated_tokens_total[20s]))"))
    with pytest.raises(ValueError, match="parse error"):
        prometheus.query("sum(rate(vllm:generation_tokens_total)")
