"""What docker/monitoring and its overlay define."""

import json
from typing import Any

import yaml

from tests.k8s.rendering import render
from tests.paths import ROOT

FOLDER = ROOT / "docker" / "monitoring"
OVERLAY = ROOT / "k8s" / "overlays" / "monitoring"
SCALER = ROOT / "k8s" / "overlays" / "autoscale"
IN_CLUSTER = '{namespace="mergeline"}'
DASHBOARD = FOLDER / "dashboards" / "mergeline.json"
# in place of Grafana's variables: a range that a short test fills, every replica
VARIABLES = {"$__rate_interval": "20s", "$instance": ".*"}


def rule_groups() -> list[dict[str, Any]]:
    """The groups of rules.yml."""
    groups: list[dict[str, Any]] = yaml.safe_load((FOLDER / "rules.yml").read_text("utf-8"))[
        "groups"
    ]
    return groups


def alerts() -> list[dict[str, Any]]:
    """Every alert of every group."""
    return [rule for group in rule_groups() for rule in group["rules"]]


def rule_groups_of_the_cluster() -> list[dict[str, Any]]:
    """The groups of the rendered PrometheusRule."""
    (rule,) = [item for item in render(OVERLAY) if item["kind"] == "PrometheusRule"]
    groups: list[dict[str, Any]] = rule["spec"]["groups"]
    return groups


def dashboard() -> dict[str, Any]:
    """The dashboard, as Grafana reads it."""
    read: dict[str, Any] = json.loads(DASHBOARD.read_text("utf-8"))
    return read


def panels() -> list[dict[str, Any]]:
    """The dashboard's panels that show data; rows are only headings."""
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def targets() -> list[tuple[str, str, str]]:
    """Title, expression and legend of each line of each panel, without Grafana's variables."""
    return [
        (panel["title"], concrete(target["expr"]), target["legendFormat"])
        for panel in panels()
        for target in panel["targets"]
    ]


def scaler_queries() -> list[str]:
    """What KEDA asks, without the label that only a cluster's Prometheus adds."""
    [scaler] = [one for one in render(SCALER) if one["kind"] == "ScaledObject"]
    queries = [trigger["metadata"]["query"] for trigger in scaler["spec"]["triggers"]]
    assert all(query.count(IN_CLUSTER) == 1 for query in queries)
    return [query.replace(IN_CLUSTER, "") for query in queries]


def concrete(expression: str) -> str:
    """The expression with values in place of the variables."""
    for variable, value in VARIABLES.items():
        expression = expression.replace(variable, value)
    return expression
