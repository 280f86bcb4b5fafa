"""What goes to the leaderboard: the zip, its script, and every rule that can be broken."""

import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from client.post_generate_process import read_rows, results
from client.submission import main
from tests.paths import SCORING

Rows = list[dict[str, Any]]


def write(path: Path, rows: Rows) -> Path:
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def answered() -> Rows:
    return [*read_rows(SCORING / "v06_shuffle_lists.predictions.jsonl")]


def submit(folder: Path, answered: Rows, test: Rows) -> int:
    return main([
        "--test", str(write(folder / "test.json", [row | {"target": ""} for row in test])),
        "--predictions", str(write(folder / "answered.json", answered)),
        "--output", str(folder / "out.zip"),
    ])  # fmt: skip


def test_the_zip_alone_gives_our_results(answered: Rows, tmp_path: Path) -> None:
    assert submit(tmp_path, answered, answered) == 0
    alone = tmp_path / "alone"
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        assert archive.namelist() == ["test_predictions.json", "post_generate_process.py"]
        archive.extractall(alone)
    subprocess.run(
        [sys.executable, "-IS", "post_generate_process.py", "test_predictions.json",
         "results.json"],
        cwd=alone, check=True, capture_output=True,
    )  # fmt: skip
    made = json.loads((alone / "results.json").read_text("utf-8"))
    assert made == results(iter(answered), "head")


def test_the_same_predictions_give_the_same_bytes(answered: Rows, tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
        assert submit(folder, answered, answered) == 0
    first, second = ((folder / "out.zip").read_bytes() for folder in folders)
    assert first == second


def test_an_empty_answer_is_packed_with_a_warning(
    answered: Rows, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = [dict(row) for row in answered]
    for row in changed[1:8]:
        row["target"] = " \n"
    assert submit(tmp_path, changed, answered) == 0
    told = capsys.readouterr().err
    assert f"warning: 7 of {len(answered)} answers are empty" in told
    assert "dev-4627" in told
    assert ", …" in told


@pytest.mark.parametrize("change", [b"\xef\xbb\xbf%s", b"%s\n\n", b"\r\n%s"])
def test_a_bom_and_blank_lines_are_no_matter_in_the_test_set_and_refused_in_the_zip(
    answered: Rows, tmp_path: Path, change: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    assert submit(tmp_path, answered, answered) == 0
    test, made = tmp_path / "test.json", tmp_path / "answered.json"
    test.write_bytes(change % test.read_bytes())
    paths = ["--test", str(test), "--predictions", str(made), "--output", str(tmp_path / "b.zip")]
    assert main(paths) == 0
    made.write_bytes(change % made.read_bytes())
    assert main(paths) == 2
    assert f"{made}:" in capsys.readouterr().err


def set_field(name: str, value: Any) -> Callable[[Rows], None]:
    return lambda rows: rows[1].update({name: value})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda rows: rows.pop(), ":192: missing are the last 1 rows of "),
        (lambda rows: rows.append(rows[0] | {"sample_id": "more"}), ":193: 1 rows more than "),
        (lambda rows: rows.reverse(), "in this line; keep its order"),
        (set_field("target", None), 'the field "target" is null, not a string'),
        (set_field("input", "?"), ':2: sample_id "dev-4627": the field "input" is not the one'),
        (set_field("answer_choices", ["?"]), 'the field "answer_choices" is not the one of'),
        (set_field("answer", "?"), 'the field "answer" is none of sample_id, input'),
        (lambda rows: rows[1].pop("task_type"), 'the field "task_type" is missing'),
        (lambda rows: [row.update(input="") for row in rows], "… and 172 more"),
    ],
)
def test_what_is_against_the_rules_is_told_and_no_zip_is_written(
    change: Callable[[Rows], None],
    words: str,
    answered: Rows,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    changed = [dict(row) for row in answered]
    change(changed)
    assert submit(tmp_path, changed, answered) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert words in told
    assert not [path for path in tmp_path.iterdir() if "zip" in path.name]


def test_the_zip_never_replaces_the_predictions(answered: Rows, tmp_path: Path) -> None:
    path = str(write(tmp_path / "a.json", answered))
    before = Path(path).read_bytes()
    assert main(["--test", path, "--predictions", path, "--output", path]) == 2
    assert Path(path).read_bytes() == before


def test_a_folder_that_is_not_there_is_told(
    answered: Rows, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(write(tmp_path / "a.json", answered))
    there = str(tmp_path / "none" / "out.zip")
    assert main(["--test", path, "--predictions", path, "--output", there]) == 2
    assert "cannot write" in capsys.readouterr().err
