"""Every check passes on every overlay, and notices what is broken for it."""

import pytest

from tests.k8s.breakages import BROKEN, Check
from tests.k8s.changes import change
from tests.k8s.objects import Cluster
from tests.k8s.rendering import OVERLAYS, applied

ON_TOP = ("loader", "monitoring", "predict", "train")  # of a deployment that serves
ALL = ("autoscale", *ON_TOP)
NAMES = sorted(folder.name for folder in OVERLAYS.iterdir())


def test_the_overlays_are_found() -> None:
    assert set(NAMES) >= {"cpu-smoke", "gpu", "multi-gpu", "multi-node", *ALL}


@pytest.mark.parametrize("names", [*((name,) for name in NAMES), ALL], ids="+".join)
def test_an_overlay_has_no_problem(names: tuple[str, ...]) -> None:
    cluster = Cluster(applied(*(["gpu"] if names[0] in ON_TOP else []), *names))
    assert [problem for check in BROKEN for problem in check(cluster)] == []


def test_a_pod_is_found_in_whichever_kind_holds_it() -> None:
    template = change(applied("gpu"), "Deployment/serve spec replicas", 1)["spec"]["template"]
    nested = {"jobTemplate": {"spec": {"template": template}}}
    for spec in (template["spec"], {"template": template}, nested):
        item = {"kind": "Any", "metadata": {"name": "one"}, "spec": spec}
        assert [pod.title for pod in Cluster([item]).pods] == ["Any/one"]


@pytest.mark.parametrize(
    ("check", "place", "value", "words"),
    [(check, *breakage) for check, breakages in BROKEN.items() for breakage in breakages],
)
def test_what_is_broken_is_noticed(check: Check, place: str, value: object, words: str) -> None:
    # a group of nodes takes the place of the Deployment
    objects = applied(*(["multi-node"] if "/group" in place else ALL))
    change(objects, place, value)
    found = [*check(Cluster(objects))]
    assert any(words in problem for problem in found), found
