"""The dashboard reads well before any Grafana has seen it."""

import json
import re
from itertools import combinations
from typing import Any

import pytest
import yaml

from tests.monitoring.definitions import DASHBOARD, FOLDER, dashboard, panels

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
COLUMNS = 24


def overlapping(panels: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Titles of panels that would cover each other."""
    found = []
    for one, other in combinations(panels, 2):
        a, b = one["gridPos"], other["gridPos"]
        across = a["x"] < b["x"] + b["w"] and b["x"] < a["x"] + a["w"]
        down = a["y"] < b["y"] + b["h"] and b["y"] < a["y"] + a["h"]
        if across and down:
            found.append((one["title"], other["title"]))
    return found


def test_each_panel_has_a_title_a_unit_and_something_to_show() -> None:
    assert len(panels()) > 20
    titles = [panel["title"] for panel in dashboard()["panels"]]
    assert all(titles)
    assert len(titles) == len(set(titles))
    for panel in panels():
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["targets"], panel["title"]
        assert all(target["legendFormat"] for target in panel["targets"]), panel["title"]


def test_ids_are_used_once() -> None:
    ids = [panel["id"] for panel in dashboard()["panels"]]
    assert len(ids) == len(set(ids))
    for panel in panels():
        letters = [target["refId"] for target in panel["targets"]]
        assert len(letters) == len(set(letters)), panel["title"]


def test_panels_lie_beside_each_other() -> None:
    every = dashboard()["panels"]
    assert overlapping(every) == []
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= COLUMNS for panel in every)


@pytest.mark.parametrize(("x", "y", "covered"), [(7, 7, True), (8, 0, False), (0, 8, False)])
def test_panels_that_cover_each_other_are_found(x: int, y: int, covered: bool) -> None:
    one = {"title": "one", "gridPos": {"x": 0, "y": 0, "w": 8, "h": 8}}
    other = {"title": "other", "gridPos": {"x": x, "y": y, "w": 8, "h": 8}}
    assert overlapping([one, other]) == ([("one", "other")] if covered else [])


def test_the_data_source_is_the_reader_s_choice() -> None:
    variables = {variable["name"]: variable for variable in dashboard()["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert variables["datasource"]["query"] == "prometheus"
    for panel in panels():
        assert panel["datasource"] == DATASOURCE
        assert all(target["datasource"] == DATASOURCE for target in panel["targets"])
    assert variables["instance"]["datasource"] == DATASOURCE


def test_variables_that_are_used_are_there() -> None:
    known = {variable["name"] for variable in dashboard()["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(dashboard())))
    assert used - {"__rate_interval"} - {"__all"} == known


def test_it_belongs_to_no_instance_and_is_written_to_be_read() -> None:
    assert "id" not in dashboard()
    assert dashboard()["uid"] == "mergeline"
    text = json.dumps(dashboard(), indent=2, ensure_ascii=False) + "\n"
    assert DASHBOARD.read_text("utf-8") == text


def test_grafana_finds_it_where_compose_mounts_it() -> None:
    (provider,) = yaml.safe_load(
        (FOLDER / "grafana" / "dashboards" / "mergeline.yml").read_text("utf-8")
    )["providers"]
    compose = yaml.safe_load((FOLDER.parents[1] / "docker-compose.yml").read_text("utf-8"))
    mounts = compose["services"]["grafana"]["volumes"]
    assert f"./docker/monitoring/dashboards:{provider['options']['path']}:ro" in mounts
