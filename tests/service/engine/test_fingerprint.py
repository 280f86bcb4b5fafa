"""Copies of a model are the same model; a changed one is another."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from service.engine.fingerprint import SMALL, fingerprint


@pytest.fixture
def model(tmp_path: Path) -> Path:
    made = tmp_path / "model"
    (made / "prefix").mkdir(parents=True)
    (made / "config.json").write_text("{}")
    (made / "prefix" / "keys.safetensors").write_bytes(b"prefix")
    (made / "model.safetensors").write_bytes(bytes(SMALL + 1))
    return made


def test_a_copy_has_the_same(model: Path) -> None:
    copy = shutil.copytree(model, model.with_name("copy"))
    (copy / ".cache").mkdir()
    (copy / ".cache" / "x").write_text("of some tool")
    assert fingerprint(copy) == fingerprint(model)


@pytest.mark.parametrize(
    "change",
    [
        lambda model: (model / "config.json").write_text("[]"),
        lambda model: (model / "prefix" / "keys.safetensors").write_bytes(b"Prefix"),
        lambda model: (model / "config.json").rename(model / "other.json"),
        lambda model: (model / "model.safetensors").write_bytes(bytes(SMALL + 2)),
        lambda model: (model / "model.safetensors").write_bytes(bytes(SMALL) + b"1"),
        lambda model: (model / "model.safetensors").write_bytes(b"1" + bytes(SMALL)),
    ],
)
def test_a_changed_one_has_another(model: Path, change: Callable[[Path], None]) -> None:
    changed = shutil.copytree(model, model.with_name("changed"))
    change(changed)
    assert fingerprint(changed) != fingerprint(model)
