"""What `kubectl kustomize` makes of the folders under k8s/."""

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest
import yaml

from tests.k8s.objects import Object
from tests.paths import ROOT

K8S = ROOT / "k8s"


def overlays() -> list[Path]:
    """What can be applied. The base is in them; by itself it is only a part."""
    return [file.parent for file in sorted(K8S.glob("overlays/*/kustomization.yaml"))]


@cache
def render(folder: Path) -> tuple[Object, ...]:
    """The objects of a folder. They are shared: copy them before you change them."""
    if shutil.which("kubectl") is None:
        reason = "kubectl is not installed: the manifests cannot be rendered"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    run = subprocess.run(
        ["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=False
    )
    if run.returncode:
        pytest.fail(f"kubectl kustomize {folder.name}: {run.stderr.strip()}")
    return tuple(item for item in yaml.safe_load_all(run.stdout) if item)
