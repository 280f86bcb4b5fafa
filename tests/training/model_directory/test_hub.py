from pathlib import Path
from typing import Any

import pytest

from training.errors import TrainingError
from training.merge.__main__ import main
from training.model_directory.hub import local_directory, public_name


def refuse(name: str, **_: Any) -> str:
    raise AssertionError(f"{name} must not be downloaded")


def test_a_directory_goes_before_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "org/name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert local_directory("org/name", refuse) == Path("org/name")


@pytest.mark.parametrize("name", ["model", "/a/b", "./a", "../a", "a/b/c", "~/a", "", "org/"])
def test_what_is_no_hub_name_is_taken_as_a_path(name: str) -> None:
    assert local_directory(name, refuse) == Path(name)


def test_only_data_is_asked_for(tmp_path: Path) -> None:
    asked: dict[str, Any] = {}

    def download(name: str, **patterns: Any) -> str:
        asked.update(patterns, name=name)
        return str(tmp_path)

    assert local_directory("org/name-7B_v1.5", download) == tmp_path
    assert asked["name"] == "org/name-7B_v1.5"
    assert sorted(asked["allow_patterns"]) == [
        *("*.bin", "*.jinja", "*.json", "*.model", "*.safetensors", "*.txt")
    ]


@pytest.mark.parametrize("error", [OSError("no network"), ValueError("bad name")])
def test_a_hub_that_does_not_give_it_is_a_clear_refusal(error: Exception) -> None:
    def download(name: str, **_: Any) -> str:
        raise error

    with pytest.raises(TrainingError, match=r"org/name is no directory here.*HF_TOKEN"):
        local_directory("org/name", download)


def test_without_a_network_the_command_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    arguments = ["--base", "no-such-org/no-model", "--adapter", "a", "--output", "o"]
    assert main(arguments) == 2
    assert "error: no-such-org/no-model is no directory here" in capsys.readouterr().err


def test_what_came_from_the_hub_is_called_by_its_name_there() -> None:
    snapshot = Path("/cache/hub/models--org--a-name/snapshots/0123abc")
    assert public_name(snapshot) == "org/a-name@0123abc"
    assert public_name(Path("/models/llama-7b")) == "llama-7b"
