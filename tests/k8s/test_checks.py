"""Every check is proven on the real manifests: all is well; one thing is broken, and it is told."""

import re
from copy import deepcopy
from decimal import Decimal
from typing import Any

import pytest

from tests.k8s import breakages, breakages_serving
from tests.k8s.breakages import GONE, Check
from tests.k8s.checks.every import ALONE, BESIDE, EXTERNAL
from tests.k8s.checks.quantities import parse, quantities_are_well_formed
from tests.k8s.checks.references import mounts_name_volumes, references_exist
from tests.k8s.checks.selectors import matches, monitors_select_services
from tests.k8s.checks.serving import serving_pods_may_drain
from tests.k8s.objects import Object, pods, title
from tests.k8s.rendering import K8S, render

APPLIED = ("autoscale", "loader", "monitoring", "predict", "train")
BROKEN = breakages.BROKEN + breakages_serving.BROKEN


def cluster(*overlays: str) -> list[Object]:
    """Overlays applied one after the other, as one namespace holds them."""
    found = {}
    for name in overlays or APPLIED:
        for item in render(K8S / "overlays" / name):
            found[title(item)] = item
    return deepcopy([*found.values()])


def the(objects: list[Object], name: str) -> Object:
    """An object by its title, or by its beginning: generated names end in a hash."""
    exact = [item for item in objects if title(item) == name]
    return (exact or [item for item in objects if title(item).startswith(f"{name}-")])[0]


def change(item: Any, path: str, value: object) -> None:
    """Set or take away what a path of keys, indices and names leads to."""
    *steps, last = path.split()
    for step in steps:
        item = item[_key(item, step)]
    if value is GONE:
        del item[_key(item, last)]
    else:
        item[_key(item, last)] = value


def _key(item: Any, step: str) -> str | int:
    if isinstance(item, dict):
        return step
    return int(step) if step.isdigit() else [part.get("name") for part in item].index(step)


def run(check: Check, objects: list[Object]) -> list[str]:
    if check is references_exist:
        return check(objects, (), EXTERNAL)
    return check(objects) if check in ALONE else check(objects, ())


@pytest.mark.parametrize(("check", "name", "path", "value", "words"), BROKEN)
def test_one_broken_thing_is_told(
    check: Check, name: str, path: str, value: object, words: str
) -> None:
    # a group of nodes takes the place of the Deployment
    objects = cluster(*(["multi-node"] if "/group" in name else []))
    assert not run(check, objects)
    change(the(objects, name), path, value)
    found = run(check, objects)
    # words that begin with an object tell of another one than the changed one
    told_of = "" if re.match(r"[A-Z]\w+/", words) else name
    assert any(told_of in problem and words in problem for problem in found), found


@pytest.mark.parametrize("check", [*ALONE, *BESIDE, references_exist])
def test_every_check_is_proven(check: Check) -> None:
    assert check in {row[0] for row in BROKEN}


@pytest.mark.parametrize(
    ("quantity", "amount"),
    [
        ("0.5", "0.5"), ("500m", "0.5"), (2, "2"), ("1Gi", "1073741824"), ("1.5Ki", "1536"),
        ("2G", "2000000000"), ("1e3", "1000"), ("1E", "1000000000000000000"), (".5k", "500"),
        ("+3", "3"), ("5.", "5"),
    ],
)  # fmt: skip
def test_a_quantity_is_read_as_kubernetes_reads_it(quantity: object, amount: str) -> None:
    assert parse(quantity) == Decimal(amount)


@pytest.mark.parametrize(
    "quantity", ["", "1 Gi", "1GB", "1g", "1KI", "Gi", "1e", "1e1.5", "--1", "1,5", True, None]
)
def test_other_words_are_no_quantity(quantity: object) -> None:
    assert parse(quantity) is None


@pytest.mark.parametrize(
    ("selector", "chosen"),
    [
        (None, False), ({}, True), ({"matchLabels": {"a": "1"}}, True),
        ({"matchLabels": {"a": "1", "b": "1"}}, False),
        ({"matchExpressions": [{"key": "a", "operator": "In", "values": ["1", "2"]}]}, True),
        ({"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["1"]}]}, False),
        ({"matchExpressions": [{"key": "b", "operator": "NotIn", "values": ["1"]}]}, True),
        ({"matchExpressions": [{"key": "b", "operator": "Exists"}]}, False),
        ({"matchExpressions": [{"key": "b", "operator": "DoesNotExist"}]}, True),
    ],
)  # fmt: skip
def test_a_selector_matches_as_in_kubernetes(selector: Object | None, chosen: bool) -> None:
    assert matches(selector, {"a": "1"}) is chosen


def kept_by(kind: str, template: Object) -> Object:
    """A pod template in each kind of object that can hold one."""
    specs: dict[str, Object] = {
        "Pod": template["spec"],
        "CronJob": {"jobTemplate": {"spec": {"template": template}}},
        "LeaderWorkerSet": {"leaderWorkerTemplate": {"size": 2, "workerTemplate": template}},
    }
    return {
        "kind": kind,
        "metadata": {"name": "one", "namespace": "mergeline"},
        "spec": specs.get(kind, {"template": template}),
    }


@pytest.mark.parametrize(
    ("kind", "titles"),
    [
        ("Pod", ["Pod/one"]), ("CronJob", ["CronJob/one"]), ("Job", ["Job/one"]),
        ("StatefulSet", ["StatefulSet/one"]), ("DaemonSet", ["DaemonSet/one"]),
        ("LeaderWorkerSet", ["LeaderWorkerSet/one leader", "LeaderWorkerSet/one worker"]),
    ],
)  # fmt: skip
def test_a_pod_is_found_in_every_kind(kind: str, titles: list[str]) -> None:
    objects = cluster()
    template = the(objects, "Deployment/serve")["spec"]["template"]
    template["spec"]["terminationGracePeriodSeconds"] = 1
    item = kept_by(kind, template)
    assert [pod.title for pod in pods([item])] == titles
    told = serving_pods_may_drain([item], objects)
    assert [problem.partition(":")[0] for problem in told] == titles


def test_a_claim_of_a_stateful_set_is_a_volume_and_has_a_size() -> None:
    item = kept_by("StatefulSet", the(cluster(), "Deployment/serve")["spec"]["template"])
    change(item, "spec template spec containers serve volumeMounts tmp name", "claimed")
    assert "names no volume" in mounts_name_volumes([item])[0]
    claim = {"metadata": {"name": "claimed"}, "spec": {"resources": {"requests": {"storage": "x"}}}}
    item["spec"]["volumeClaimTemplates"] = [claim]
    assert mounts_name_volumes([item]) == ["StatefulSet/one: volume tmp is mounted nowhere"]
    assert "claim claimed requests.storage: 'x'" in quantities_are_well_formed([item])[0]


def test_a_pod_monitor_is_held_against_pods() -> None:
    objects = cluster()
    monitor = {
        "kind": "PodMonitor",
        "metadata": {"name": "one", "namespace": "mergeline"},
        "spec": {
            "selector": {"matchLabels": {breakages.COMPONENT: "balancer"}},
            "podMetricsEndpoints": [{"port": "metrics"}],
        },
    }
    assert not monitors_select_services([monitor], objects)
    change(monitor, "spec podMetricsEndpoints 0 port", "web")
    assert "port web: not in the pod" in monitors_select_services([monitor], objects)[0]
    change(monitor, f"spec selector matchLabels {breakages.COMPONENT}", "x")
    assert "matches no pod" in monitors_select_services([monitor], objects)[0]
