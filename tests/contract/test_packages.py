"""The package lists and the sums of their files say the same."""

import re
from pathlib import Path

import pytest

from tests.paths import ROOT

DOCKER = ROOT / "docker"
PINNED = re.compile(r"^([A-Za-z0-9._-]+)==(\S+)", re.MULTILINE)


def pinned(path: Path) -> dict[str, str]:
    """Versions by normalised name, of what is on PyPI."""
    found = PINNED.findall(path.read_text())
    return {
        re.sub(r"[-_.]+", "-", name).lower(): version
        for name, version in found
        if not version.endswith("+cpu")
    }


@pytest.mark.parametrize("variant", ["cpu", "gpu"])
def test_every_package_from_pypi_has_its_sums(variant: str) -> None:
    listed, summed = DOCKER / f"packages-{variant}.txt", DOCKER / "hashes" / f"{variant}.txt"
    assert pinned(summed) == pinned(listed)


def test_the_client_image_has_the_versions_of_the_others() -> None:
    client = pinned(DOCKER / "hashes" / "client.txt")
    assert client.items() <= pinned(DOCKER / "packages-cpu.txt").items()
    assert {"httpx", "tqdm", "pyyaml", "jinja2", "markupsafe"} <= client.keys()


@pytest.mark.parametrize("path", sorted((DOCKER / "hashes").iterdir()), ids=lambda path: path.name)
def test_the_sums_are_whole_and_name_no_address(path: Path) -> None:
    text = path.read_text()
    entries = text.replace("\\\n", "").splitlines()
    assert all(re.fullmatch(r"\S+==\S+(\s+--hash=sha256:[0-9a-f]{64})+", line) for line in entries)
    assert "://" not in text
