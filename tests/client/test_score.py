"""The score's command line: official figures in, errors that say what does not fit."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.post_generate_process import CONVERTERS, structured
from client.promptcblue.bootstrap import Interval
from client.promptcblue.gold import Gold, Predictions, read_files
from client.promptcblue.metrics import EXTRACTION, METRICS
from client.promptcblue.scores import Difference, Scores
from client.promptcblue.scoring import score
from client.score import main
from tests.client.conftest import read_output
from tests.paths import SCORING

GOLD = SCORING / "dev_structured.json"
PERFECT = SCORING / "v00_perfect.predictions.jsonl"
DROPPED = SCORING / "v01_drop_lines.predictions.jsonl"


def scored(gold: Path, *predictions: Path, seed: int = 0) -> list[Scores]:
    return score(*read_files(gold, predictions), seed=seed)


def put(path: Path, *rows: tuple[str, str, str]) -> Path:
    lines = [
        json.dumps({
            "sample_id": name, "task_dataset": task, "target": target, "task_type": "any",
            "input": "?", "answer_choices": ["a", "b"],
        })
        for name, task, target in rows
    ]  # fmt: skip
    path.write_text("\n".join(lines))
    return path


@pytest.fixture
def gold(tmp_path: Path) -> Path:
    return put(
        tmp_path / "gold.json",
        ("1", "CHIP-CTC", "a"),
        ("2", "CHIP-CTC", "b"),
        ("3", "KUAKE-IR", "相关"),
        ("4", "CMeIE", ""),
        ("5", "MedDG", "您好"),
    )


@pytest.mark.parametrize("converter", CONVERTERS)
def test_json_holds_the_official_scores_in_full_precision(converter: str, tmp_path: Path) -> None:
    out = tmp_path / "score.json"
    options = ["--gold", str(GOLD), "--predictions", str(DROPPED), "--converter", converter]
    assert main([*options, "--json", str(out)]) == 0
    made = json.loads(out.read_text())
    expected = json.loads((SCORING / "v01_drop_lines.expected.json").read_text())
    official = expected["official"][converter]
    assert made["overall"] == pytest.approx(official["overall"], abs=1e-9)
    for task, figures in official["tasks"].items():
        name = {"rougeL", "f1", "macro-f1"} & figures.keys()
        assert made["tasks"][task]["score"] == pytest.approx(figures[name.pop()], abs=1e-9)
        low, high = made["tasks"][task]["interval"]
        assert low <= made["tasks"][task]["score"] <= high
        assert made["tasks"][task]["rows"] == 12
    assert {task["metric"] for task in made["tasks"].values()} == {
        "micro-F1", "macro-F1", "weighted-F1", "Rouge-L",
    }  # fmt: skip


def test_gold_may_be_the_rows_or_the_structured_file() -> None:
    by_rows, by_file = (scored(gold, DROPPED)[0] for gold in (PERFECT, GOLD))
    assert by_rows.overall.value == pytest.approx(by_file.overall.value, abs=1e-12)


def test_two_files_stand_side_by_side_with_their_difference(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "score.json"
    options = ["--gold", str(GOLD), "--predictions", str(DROPPED), "--compare", str(PERFECT)]
    assert main([*options, "--json", str(out)]) == 0
    first, second = json.loads(out.read_text()), json.loads(out.read_text())["compare"]
    step = second["difference"]
    assert step["score"] == pytest.approx(second["overall"] - first["overall"])
    assert step["interval"][0] <= step["score"] <= step["interval"][1]
    assert step["interval"][0] > 0
    assert [*second] == [
        "overall", "interval", "tasks", "lenient", "failures", "difference", "same_texts",
        "predictions", "converter", "seed",
    ]  # fmt: skip
    assert [*second["tasks"]["CHIP-CDN"]] == [
        "metric", "score", "interval", "rows", "precision", "recall", "f1", "lenient", "failures",
        "difference",
    ]  # fmt: skip
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "192 rows" in line]
    assert line.startswith("overall ")
    assert f"{first['overall']:.2%}" in line
    assert f"{step['score']:+.2%}" in line


def test_the_paired_interval_is_that_of_numpy_on_the_same_draws() -> None:
    first, second = scored(GOLD, DROPPED, SCORING / "v08_punct_width.predictions.jsonl", seed=7)
    found, made = [], read_files(GOLD, [DROPPED, SCORING / "v08_punct_width.predictions.jsonl"])
    for task in sorted(first.tasks):
        step = second.tasks[task].score.difference
        assert step
        draws = np.stack([drawn(made, each, task, seed=7) for each in (0, 1)])
        found.append(draws[1] - draws[0])
        low, high = np.sort(found[-1])[[25, 974]]  # 2.5 % of 1,000 on either side
        assert step.interval == pytest.approx((low, high), abs=1e-12)
    mean = second.overall.difference
    assert mean
    assert mean.interval == pytest.approx(np.sort(np.mean(found, axis=0))[[25, 974]], abs=1e-12)


def drawn(files: tuple[Gold, list[Predictions]], number: int, task: str, seed: int) -> Any:
    """1,000 scores of that file: the rows of a draw by their numbers, which are the same for all.

    Of the extraction tasks: F1 from the sums of common, predicted and gold items.
    """
    gold, predictions = files
    answers, metric = gold.answers[task], METRICS[task]
    rows = zip(answers.values(), predictions[number].rows[task], strict=True)
    samples = [metric.sample(right, structured(row, "head")) for right, row in rows]
    draw = random.Random(f"{seed} {task}")
    picks = np.array([draw.choices(range(len(samples)), k=len(samples)) for _ in range(1000)])
    if metric is not EXTRACTION:
        return np.array(
            [metric.total([samples[one] for one in pick])[metric.main] for pick in picks]
        )
    common, stated, wanted = np.moveaxis(np.array(samples)[picks].sum(axis=1), -1, 0)
    return 2 * common / np.maximum(stated + wanted, 1)


def test_what_is_compared_with_itself_does_not_differ(capsys: pytest.CaptureFixture[str]) -> None:
    first, second = scored(GOLD, DROPPED, DROPPED)
    for each in second.by_name.values():
        assert each.difference == Difference(0, Interval(0, 0))
    assert second.same_texts == first.rows
    assert (
        main(["--gold", str(GOLD), "--predictions", str(DROPPED), "--compare", str(DROPPED)]) == 0
    )
    said = capsys.readouterr().out
    assert "192 of 192 answers (100.0%) are the same text" in said
    assert "overall: +0.00% [+0.0%, +0.0%], not distinguishable from zero" in said
    assert "distinguishable from zero: none\n" in said


@pytest.mark.parametrize(("one", "other", "word"), [
    (DROPPED, PERFECT, "better"), (PERFECT, DROPPED, "worse"),
])  # fmt: skip
def test_a_difference_is_told_in_words(
    one: Path, other: Path, word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--gold", str(GOLD), "--predictions", str(one), "--compare", str(other)]) == 0
    verdict = capsys.readouterr().out.rpartition(" against the first:\n")[2].splitlines()
    rows = [[row["target"] for row in read_output(path)] for path in (one, other)]
    same = sum(a == b for a, b in zip(*rows, strict=True))
    assert 0 < same < 192
    assert verdict[0].startswith(f"{same} of 192 answers")
    assert verdict[1].endswith(f", distinguishable from zero: {word}")
    assert "CHIP-CDN" in verdict[2]
    assert "CHIP-CTC" not in verdict[2]


def test_what_the_format_cost_stands_apart(capsys: pytest.CaptureFixture[str]) -> None:
    narrow = SCORING / "v08_punct_width.predictions.jsonl"
    (result,) = scored(GOLD, narrow)
    mean = result.overall
    assert mean.value < 0.8
    assert mean.lenient > 0.95
    assert result.tasks["CMeEE-V2"].score.failures == {"half-width punctuation": 6}
    assert mean.failures["half-width punctuation"] > 40
    assert main(["--gold", str(GOLD), "--predictions", str(narrow), "--compare", str(PERFECT)]) == 0
    printed = capsys.readouterr().out
    cost = f"{mean.lenient:.2%} instead of  {mean.value:.2%}: half-width punctuation"
    assert cost in printed
    assert "(a lenient reading, not the score):\nnothing\n" in printed


def test_a_seed_gives_the_same_intervals() -> None:
    one, same, other = (scored(GOLD, DROPPED, seed=seed)[0].overall.interval for seed in (1, 1, 2))
    assert one == same
    assert one != other


def test_a_mean_over_fewer_tasks_is_not_called_overall(
    gold: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--gold", str(gold), "--predictions", str(gold)]) == 0
    assert "\nmean of 4 tasks " in capsys.readouterr().out


def test_under_either_name_of_the_relation_task_sixteen_are_overall(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    renamed = tmp_path / "renamed.json"
    renamed.write_text(PERFECT.read_text("utf-8").replace('"CMeIE"', '"CMeIE-V2"'), "utf-8")
    assert main(["--gold", str(renamed), "--predictions", str(renamed)]) == 0
    assert "\noverall " in capsys.readouterr().out


def test_the_json_never_replaces_what_was_read(
    gold: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = gold.read_bytes()
    assert main(["--gold", str(gold), "--predictions", str(gold), "--json", str(gold)]) == 2
    assert "is an input or a folder" in capsys.readouterr().err
    assert gold.read_bytes() == before


def test_the_relation_task_has_two_names(tmp_path: Path) -> None:
    target = "具有治疗关系的头尾实体对如下：头实体为甲，尾实体为乙。"
    gold = put(tmp_path / "gold.json", ("1", "CMeIE", target))
    made = put(tmp_path / "made.json", ("1", "CMeIE-V2", target))
    assert scored(gold, made)[0].overall.value == 1


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([("1", "CHIP-CTC", "a")], "lacks 4 rows of the other file: 2, 3, 4, 5. "),
        ([(str(n), "CHIP-CTC", "a") for n in range(1, 7)], "lacks 1 rows of the other file: 6. "),
        ([(str(n), "MedDG", "a") for n in range(1, 6)],
         'sample_id "1": the field "task_dataset" is "MedDG", in '),
        ([("1", "CHIP-CTD", "a")], 'the field "task_dataset" names an unknown task'),
    ],
)  # fmt: skip
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


def one(sample: Any, task: str = "CHIP-CTC") -> str:
    return json.dumps({task: [sample]})


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (one({"sample_id": "1", "answer": "a"}, "CHIP"), 'task "CHIP" is unknown'),
        (json.dumps({"CHIP-CTC": {}}), "expected a list of answers"),
        (one("a"), 'answer 1: the field "sample_id" is missing'),
        (one({"sample_id": "1"}), 'sample_id "1": the field "answer" is not a string'),
        (one({"sample_id": "1", "answer": ""}), 'sample_id "1" of CHIP-CTC has an empty gold'),
        (one({"sample_id": "1", "answer": "a"}, "CMeIE"), "is not a list of objects"),
        (one({"sample_id": "1", "answer": ["a"]}, "CMeIE"), "is not a list of objects"),
        (one({"sample_id": "1", "answer": "a"}, "IMCS-V2-MRG"), "is not an object of strings"),
        (json.dumps({"MedDG": [{"sample_id": "1", "answer": "a"}] * 2}), "is used twice"),
        ("[1]", "expected a JSON object, found list"),
        ("\n", "no rows"),
    ],
)
def test_a_gold_file_that_is_off_is_told(
    content: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gold = tmp_path / "gold.json"
    gold.write_text(content)
    assert main(["--gold", str(gold), "--predictions", str(PERFECT)]) == 2
    assert words in capsys.readouterr().err


def test_a_test_set_is_no_gold(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    test = put(tmp_path / "test.json", ("1", "CHIP-CTC", ""))
    assert main(["--gold", str(test), "--predictions", str(test)]) == 2
    assert "every target is empty" in capsys.readouterr().err
