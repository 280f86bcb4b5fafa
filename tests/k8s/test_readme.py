"""The overlay that k8s/README.md tells its reader to write."""

import re
import shutil
from pathlib import Path

from tests.k8s.rendering import K8S, render


def test_the_overlay_of_the_readme_renders_and_takes_its_settings(tmp_path: Path) -> None:
    text = (K8S / "README.md").read_text("utf-8")
    [block] = re.findall(r"^ *```yaml\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL)
    shutil.copytree(K8S, tmp_path / "k8s")
    mine = tmp_path / "k8s" / "overlays" / "mine"
    mine.mkdir()
    indent = re.match(" *", block)
    assert indent
    lines = (line.removeprefix(indent[0]) for line in block.splitlines())
    (mine / "kustomization.yaml").write_text("\n".join(lines), "utf-8")
    [settings] = [
        one["data"] for one in render(mine)
        if one["kind"] == "ConfigMap" and one["metadata"]["name"].startswith("serve-settings")
    ]  # fmt: skip
    assert settings["SERVICE_MODEL"] == "/models/v1"
    assert settings["SERVICE_MAX_MODEL_LEN"] == "4096"
    assert settings["SERVICE_PORT"] == "8000"


def test_every_overlay_is_in_the_readme_and_every_link_leads_somewhere() -> None:
    text = (K8S / "README.md").read_text("utf-8")
    linked = set(re.findall(r"\]\(([^)#]+)\)", text))
    assert {f"overlays/{folder.name}" for folder in (K8S / "overlays").iterdir()} <= linked
    missing = [link for link in linked if "//" not in link and not (K8S / link).exists()]
    assert not missing
