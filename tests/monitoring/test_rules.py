"""The alerts: their syntax, their own unit tests, their runbooks; the same in a cluster."""

import subprocess
from pathlib import Path

import yaml

from tests.monitoring.definitions import FOLDER, alerts, rule_groups, rule_groups_of_the_cluster
from tests.paths import ROOT
from tests.programs import installed

UNIT_TESTS = Path(__file__).parent / "rules.test.yml"


def promtool(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    program = installed("promtool", "Debian's package prometheus to test the alerts")
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=False)


def test_prometheus_accepts_configuration_and_rules() -> None:
    run = promtool("check", "config", FOLDER / "prometheus.yml")  # reads rules.yml with it
    assert run.returncode == 0, run.stderr
    assert f"SUCCESS: {len(alerts())} rules found" in run.stdout


def test_each_alert_fires_when_it_should_and_only_then() -> None:
    run = promtool("test", "rules", UNIT_TESTS)
    assert run.returncode == 0, run.stdout + run.stderr


def test_each_alert_has_a_unit_test() -> None:
    tests = yaml.safe_load(UNIT_TESTS.read_text("utf-8"))["tests"]
    fired = {case["alertname"] for test in tests for case in test.get("alert_rule_test", [])}
    assert fired == {alert["alert"] for alert in alerts()}


def test_an_alert_that_never_fires_fails_its_unit_test(tmp_path: Path) -> None:
    rules = (FOLDER / "rules.yml").read_text("utf-8")
    assert rules.count('state="ready"') == 3
    (tmp_path / "rules.yml").write_text(rules.replace('state="ready"', 'state="redy"'))
    cases = UNIT_TESTS.read_text("utf-8").replace("../../docker/monitoring/rules.yml", "rules.yml")
    (tmp_path / "rules.test.yml").write_text(cases)
    assert promtool("test", "rules", tmp_path / "rules.test.yml").returncode == 1


def test_each_alert_says_how_bad_it_is_and_what_to_do() -> None:
    for alert in alerts():
        assert alert["labels"]["severity"] in {"critical", "warning"}
        assert {"summary", "description", "runbook"} == set(alert["annotations"]), alert["alert"]
        assert "for" in alert


def test_each_alert_has_a_runbook_and_each_runbook_an_alert() -> None:
    pages = [page.relative_to(ROOT).as_posix() for page in (FOLDER / "runbooks").iterdir()]
    assert sorted(alert["annotations"]["runbook"] for alert in alerts()) == sorted(pages)
    for alert in alerts():
        page = (ROOT / alert["annotations"]["runbook"]).read_text("utf-8")
        assert page.startswith(f"# {alert['alert']}\n")
        headings = [line[3:] for line in page.splitlines() if line.startswith("## ")]
        assert headings == ["What it means", "Look at", "Do", "When it is nothing"]


def test_the_readme_tells_of_each_alert() -> None:
    readme = (FOLDER / "README.md").read_text("utf-8")
    for alert in alerts():
        page = alert["annotations"]["runbook"].removeprefix("docker/monitoring/")
        row = f"| [{alert['alert']}]({page}) | {alert['labels']['severity']} | {alert['for']} |"
        assert row in readme


def test_a_cluster_has_the_same_rules() -> None:
    assert rule_groups_of_the_cluster() == rule_groups()
