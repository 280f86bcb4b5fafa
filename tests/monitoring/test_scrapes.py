"""Every series that rules and dashboard read is in the metrics of a real server or balancer."""

from collections.abc import Sequence

import pytest

from tests.monitoring.definitions import alerts, scaler_queries, targets
from tests.monitoring.promql import Series, missing

pytestmark = pytest.mark.e2e
OF_PROMETHEUS = {"up"}  # it makes these itself


def absent(expression: str, scraped: Sequence[Series]) -> list[str]:
    return [str(one) for one in missing(expression, scraped) if one.name not in OF_PROMETHEUS]


def test_alerts_read_what_is_there(scraped: Sequence[Series]) -> None:
    found = {alert["alert"]: absent(alert["expr"], scraped) for alert in alerts()}
    assert not {name: series for name, series in found.items() if series}


def test_panels_show_what_is_there(scraped: Sequence[Series]) -> None:
    found = {title: absent(expression, scraped) for title, expression, _ in targets()}
    assert not {title: series for title, series in found.items() if series}


def test_the_scaler_reads_what_is_there(scraped: Sequence[Series]) -> None:
    queries = scaler_queries()
    assert any("vllm:num_requests_waiting" in query for query in queries)
    assert [absent(query, scraped) for query in queries] == [[] for _ in queries]


@pytest.mark.parametrize(
    ("there", "not_there"),
    [
        ("vllm:num_requests_running", "vllm:num_requests_runing"),
        ('mergeline_state{job="serve", state="ready"}', 'mergeline_state{state="redy"}'),
        (
            'haproxy_backend_active_servers{job="balancer", proxy="serve"}',
            'haproxy_backend_active_servers{job="serve", proxy="serve"}',
        ),
    ],
)
def test_a_misspelt_name_is_noticed(scraped: Sequence[Series], there: str, not_there: str) -> None:
    assert absent(there, scraped) == []
    assert len(absent(not_there, scraped)) == 1
