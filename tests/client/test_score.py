import json
from pathlib import Path

import pytest

from client.score import main, score


def put(path: Path, *rows: tuple[str, str, str]) -> Path:
    lines = [
        json.dumps({"sample_id": name, "task_dataset": task, "target": target})
        for name, task, target in rows
    ]
    path.write_text("\n".join(lines))
    return path


@pytest.fixture
def gold(tmp_path: Path) -> Path:
    return put(
        tmp_path / "gold.json",
        ("1", "CHIP-CTC", "a"),
        ("2", "CHIP-CTC", "b"),
        ("3", "CHIP-CTC", "c"),
        ("4", "KUAKE-IR", "相关"),
        ("5", "MedDG", "您好"),
    )


@pytest.fixture
def predictions(tmp_path: Path) -> Path:
    return put(
        tmp_path / "predictions.json",
        ("5", "MedDG", "再见"),
        ("4", "KUAKE-IR", " 相关\n"),
        ("3", "CHIP-CTC", "c"),
        ("2", "CHIP-CTC", "x"),
        ("1", "CHIP-CTC", ""),
    )


def test_each_task_counts_alike_in_the_means(gold: Path, predictions: Path) -> None:
    result = score(gold, predictions)
    assert result["tasks"] == {
        "CHIP-CTC": {"metric": "exact_match", "score": pytest.approx(1 / 3), "rows": 3},
        "KUAKE-IR": {"metric": "exact_match", "score": 1, "rows": 1},
        "MedDG": {"metric": "exact_match", "score": 0, "rows": 1},
    }
    assert result["label_tasks"] == pytest.approx(2 / 3)
    assert result["overall"] == pytest.approx(4 / 9)


def test_two_files_stand_side_by_side(
    gold: Path, predictions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "score.json"
    options = ["--gold", str(gold), "--predictions", str(predictions), "--compare", str(gold)]
    assert main([*options, "--json", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "not the official metric" in printed
    lines = [line.split() for line in printed.splitlines()]
    assert ["CHIP-CTC", "3", "rows", "33.3%", "100.0%"] in lines
    assert ["mean", "of", "the", "label", "tasks", "4", "rows", "66.7%", "100.0%"] in lines
    assert ["mean", "of", "all", "tasks", "5", "rows", "44.4%", "100.0%"] in lines
    assert json.loads(out.read_text())["compare"]["overall"] == 1


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([("1", "CHIP-CTC", "a")], "lacks 4 rows of the other file: 2, 3, 4, 5"),
        ([(str(n), "CHIP-CTC", "a") for n in range(1, 7)], "lacks 1 rows of the other file: 6"),
    ],
)
def test_files_that_do_not_fit_end_with_2(
    gold: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    rows: list[tuple[str, str, str]],
    words: str,
) -> None:
    other = put(tmp_path / "other.json", *rows)
    assert main(["--gold", str(gold), "--predictions", str(other)]) == 2
    assert words in capsys.readouterr().err


def test_a_test_set_is_no_gold(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    test = put(tmp_path / "test.json", ("1", "CHIP-CTC", ""))
    assert main(["--gold", str(test), "--predictions", str(test)]) == 2
    assert "every target is empty" in capsys.readouterr().err
