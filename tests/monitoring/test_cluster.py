"""k8s/overlays/monitoring, rendered: it finds the Services, and is the same as in compose."""

from typing import Any

import yaml

from tests.k8s.objects import matches
from tests.k8s.rendering import render
from tests.monitoring.definitions import DASHBOARD, FOLDER, OVERLAY
from tests.paths import ROOT

BASE = ROOT / "k8s" / "base"


def of_kind(kind: str) -> list[Any]:
    return [item for item in render(OVERLAY) if item["kind"] == kind]


def test_it_holds_what_an_operator_reads_and_nothing_else() -> None:
    kinds = ["ConfigMap", "PrometheusRule", "ServiceMonitor", "ServiceMonitor"]
    assert sorted(item["kind"] for item in render(OVERLAY)) == kinds
    assert {item["metadata"]["namespace"] for item in render(OVERLAY)} == {"mergeline"}


def test_the_dashboard_is_the_one_of_compose_under_a_name_that_stays() -> None:
    (config,) = of_kind("ConfigMap")
    assert config["metadata"]["name"] == "mergeline-dashboard"
    assert config["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert config["data"] == {DASHBOARD.name: DASHBOARD.read_text("utf-8")}


def test_each_job_is_one_service_called_as_in_compose() -> None:
    """Two Services of the same pods would count every replica twice."""
    services = [item for item in render(BASE) if item["kind"] == "Service"]
    jobs = {}
    for monitor in of_kind("ServiceMonitor"):
        spec = monitor["spec"]
        (service,) = [
            item for item in services if matches(spec["selector"], item["metadata"]["labels"])
        ]
        ports = {port["name"]: port["port"] for port in service["spec"]["ports"]}
        (endpoint,) = spec["endpoints"]
        jobs[service["metadata"]["labels"][spec["jobLabel"]]] = ports[endpoint["port"]]
    compose = yaml.safe_load((FOLDER / "prometheus.yml").read_text("utf-8"))["scrape_configs"]
    assert jobs == {job["job_name"]: job["dns_sd_configs"][0]["port"] for job in compose}
    assert set(jobs) == {"serve", "balancer"}


def test_both_worlds_are_scraped_equally_often() -> None:
    intervals = {
        endpoint["interval"]
        for monitor in of_kind("ServiceMonitor")
        for endpoint in monitor["spec"]["endpoints"]
    }
    compose = yaml.safe_load((FOLDER / "prometheus.yml").read_text("utf-8"))
    assert intervals == {compose["global"]["scrape_interval"]}
