"""What `kubectl kustomize` makes of the folders under k8s/."""

import subprocess
from copy import deepcopy
from functools import cache
from pathlib import Path

import pytest
import yaml

from tests.k8s.objects import Object, title
from tests.paths import ROOT
from tests.programs import installed

K8S = ROOT / "k8s"
OVERLAYS = K8S / "overlays"


@cache
def render(folder: Path) -> tuple[Object, ...]:
    """The objects of a folder. They are shared: copy them before you change them."""
    kubectl = installed("kubectl", "it to render the manifests")
    run = subprocess.run(
        [kubectl, "kustomize", str(folder)], capture_output=True, text=True, check=False
    )
    if run.returncode:
        pytest.fail(f"kubectl kustomize {folder.name}: {run.stderr.strip()}")
    return tuple(item for item in yaml.safe_load_all(run.stdout) if item)


def applied(*overlays: str) -> list[Object]:
    """Copies of what a namespace holds after these overlays, one applied after the other."""
    found = {title(item): item for name in overlays for item in render(OVERLAYS / name)}
    return deepcopy([*found.values()])
