"""Sampling parameters as text and from files."""

from pathlib import Path

import pytest

from client.errors import InputError
from client.prediction.parameters import read_parameters


@pytest.mark.parametrize(
    "content",
    [
        '{"max_tokens": 64, "stop": ["。"]}',
        "# for labels\nmax_tokens: 64\nstop: [。]\n",
    ],
)
def test_a_file_of_json_or_yaml_gives_what_the_text_would(tmp_path: Path, content: str) -> None:
    path = tmp_path / "parameters"
    path.write_text(content, "utf-8")
    wanted = {"max_tokens": 64, "stop": ["。"]}
    assert read_parameters(str(path)) == wanted
    assert read_parameters('{"max_tokens": 64, "stop": ["。"]}') == wanted
    assert read_parameters(str(path), "tuned") == {**wanted, "adapter": "tuned"}


def test_keys_are_what_json_makes_of_them(tmp_path: Path) -> None:
    path = tmp_path / "parameters.yaml"
    path.write_text("logit_bias: {50: -100}")
    assert read_parameters(str(path)) == {"logit_bias": {"50": -100}}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("- 1", "expected an object"),
        ("", "expected an object"),
        ("a: [", "neither JSON nor YAML"),
        ("day: 2023-05-01", "cannot be sent as JSON"),
        ("temperature: .nan", "cannot be sent as JSON"),
        ("!!python/object:os.system {}", "neither JSON nor YAML"),
    ],
)
def test_a_file_that_does_not_do_is_named(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "parameters.yaml"
    path.write_text(content, "utf-8")
    with pytest.raises(InputError, match=f"parameters.yaml.*{words}"):
        read_parameters(str(path))
