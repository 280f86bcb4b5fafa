"""Every overlay, as `kubectl kustomize` renders it, passes every check."""

from pathlib import Path

import pytest

from tests.k8s.checks.every import problems
from tests.k8s.objects import Object
from tests.k8s.rendering import K8S, overlays, render

# applied on top of a deployment that serves: what that has is there
ON_TOP = {"loader", "monitoring", "predict", "train"}


def known_beside(folder: Path) -> tuple[Object, ...]:
    return render(K8S / "overlays" / "gpu") if folder.name in ON_TOP else ()


@pytest.mark.parametrize("folder", overlays(), ids=lambda folder: folder.name)
def test_an_overlay_has_no_problem(folder: Path) -> None:
    found = problems(render(folder), known_beside(folder))
    assert not found, "\n".join(["", *found])


def test_the_overlays_are_found() -> None:
    names = {folder.name for folder in overlays()}
    assert names >= {"cpu-smoke", "gpu", "multi-gpu"} | ON_TOP
