"""The documents: the files that they name exist, and their tables can be read."""

import re

import pytest

from tests.paths import ROOT

FOLDERS = ("client", "docker", "k8s", "service", "tests", "training")
DOCUMENTS = sorted(
    str(path.relative_to(ROOT))
    for path in (
        *ROOT.glob("*.md"),
        *(path for at in FOLDERS for path in (ROOT / at).rglob("*.md")),
    )
)
LONGEST_CELL = 160


@pytest.mark.parametrize(
    "document",
    [
        *("ARCHITECTURE.md", "CONTRIBUTING.md", "client/README.md", "service/README.md"),
        *("service/UPGRADING.md", "training/README.md"),
    ],
)
def test_every_file_that_a_document_names_is_there(document: str) -> None:
    path = ROOT / document
    text = path.read_text("utf-8").replace("\\", "")
    named = re.findall(r"(?<![\w/.-])([a-z0-9_]+(?:/[a-z0-9_.]+)*\.(?:py|toml|yml))\b", text)
    assert len(named) > 10
    places = (ROOT, path.parent)
    assert not [name for name in named if not any((place / name).is_file() for place in places)]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_link_to_a_file_leads_to_one(document: str) -> None:
    path = ROOT / document
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", path.read_text("utf-8"))
    assert not [link for link in links if not (path.parent / link).exists()]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_no_table_has_a_cell_too_long_to_read(document: str) -> None:
    lines = (ROOT / document).read_text("utf-8").splitlines()
    rows = [re.sub(r"\]\([^)]*\)", "]", line) for line in lines if line.startswith("|")]
    cells = [cell.strip() for row in rows for cell in re.split(r"(?<!\\)\|", row)]
    assert not [cell for cell in cells if len(cell) > LONGEST_CELL]
