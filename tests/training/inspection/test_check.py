"""--check finds what is wrong with spoilt data, nothing else; --preview marks what is learned."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.families import write_family
from tests.paths import DEMO
from training.train.__main__ import main

QUESTIONS = [f"第{number}个问题：感冒了怎么办？" for number in range(12)]
GOOD = [
    {"input": question, "target": f"多喝水{number % 3}", "task_dataset": "建议"}
    for number, question in enumerate(QUESTIONS)
]
SHAREGPT = {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}


def row(**changes: Any) -> dict[str, Any]:
    return {"input": "新的问题", "target": "新的回答", "task_dataset": "建议", **changes}


SPOILT: dict[str, tuple[list[Any], dict[str, int]]] = {
    "good": ([], {}),
    "an empty answer": ([row(target=" ")], {"unusable": 1}),
    "a missing column": ([{"input": "x"}], {"unusable": 1}),
    "broken JSON": (['{"input": "x", '], {"unusable": 1}),
    "another format": ([SHAREGPT], {"unusable": 1}),
    "half a character": ([row(target="a\ud83d")], {"unusable": 1}),
    "a control token": ([row(input="忽略<|eot_id|>")], {"refused": 1}),
    "a thought": ([row(target="<think>想</think>好")], {"refused": 1}),
    "an answer beyond the limit": ([row(target="水" * 400)], {"refused": 1}),
    "a prompt beyond the limit": ([row(input="水" * 400)], {"cut": 1}),
    "a row twice": ([GOOD[3], GOOD[3]], {"duplicates": 2}),
    "two answers": ([row(), row(target="别的")], {"contradictions": 1}),
    "a row of dev": ([row(input="留出的问题")], {"shared": 1}),
    "several at once": (
        [row(target=""), row(input="<|eot_id|>"), GOOD[0], row(input="水" * 400)],
        {"unusable": 1, "refused": 1, "duplicates": 1, "cut": 1},
    ),
}
FATAL = {"unusable", "refused"}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_family("llama3", tmp_path_factory.mktemp("check") / "base")


def write(path: Path, rows: list[Any]) -> Path:
    lines = [each if isinstance(each, str) else json.dumps(each) for each in rows]
    path.write_text("\n".join(lines))
    return path


def run(base: Path, folder: Path, rows: list[Any], *options: str) -> int:
    train = write(folder / "train.json", rows)
    dev = write(folder / "dev.json", [row(input="留出的问题")])
    return main(
        [
            *("--config", "llama_lora", f"model={base}", f"data.train={train}", "template=null"),
            *(f"data.eval={dev}", "data.max_length=200", *options),
        ]
    )


@pytest.mark.parametrize("name", SPOILT)
def test_each_fault_is_found_and_nothing_else(
    name: str, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoilt, expected = SPOILT[name]
    code = run(base, tmp_path, [*GOOD, *spoilt], "--check", "--json")
    report = json.loads(capsys.readouterr().out)
    found = {finding["kind"]: len(finding["where"]) for finding in report["findings"]}
    assert found == expected
    assert report["refused"] == bool(expected.keys() & FATAL)
    assert code == int(report["refused"])
    lines = range(len(GOOD) + 1, len(GOOD) + len(spoilt) + 1)
    for finding in report["findings"]:
        places = finding["where"]
        if finding["kind"] == "shared":
            assert places == [f"{tmp_path}/dev.json:1: as {tmp_path}/train.json:13"]
        else:
            known = [f"{tmp_path}/train.json:{line}: " for line in lines]
            assert all(any(place.startswith(each) for each in known) for place in places)


def test_the_report_has_lengths_and_labels(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(base, tmp_path, [*GOOD, row(target="")], "--check") == 1
    text = capsys.readouterr().out
    assert "train.json: 13 rows, " in text
    assert "labels of 建议: 多喝水0 4, 多喝水1 4, 多喝水2 4" in text
    assert "error: 1 rows that cannot be read" in text
    assert text.endswith("training would refuse this data\n")


def test_a_preview_marks_what_is_learned(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(base, tmp_path, GOOD, "--preview", "2") == 0
    text = capsys.readouterr().out
    assert text.count("⟦多喝水") == 2
    assert "⟦多喝水0<|eot_id|>⟧" in text
    assert not (tmp_path / "adapters").exists()


def test_a_trial_reads_the_first_rows_alone(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(base, tmp_path, GOOD, "--preview", "99", "data.limit=3") == 0
    assert capsys.readouterr().out.count("⟦多喝水") == 3


TEST_SETS: dict[str, list[dict[str, Any]]] = {
    "columns": [{"input": "一", "target": ""}, {"input": "二"}],
    "alpaca": [
        {"instruction": "一", "input": "", "output": ""},
        {"instruction": "二", "input": "x"},
    ],
    "completion": [{"prompt": "一", "completion": ""}, {"prompt": "二"}],
    "chat completion": [{"prompt": [{"role": "user", "content": "一"}]}],
    "messages": [
        {"messages": [{"role": "user", "content": "一"}]},
        {"messages": [{"role": "user", "content": "二"}, {"role": "assistant", "content": "答"}]},
    ],
    "sharegpt": [
        {"conversations": [{"from": "human", "value": "一"}]},
        {"conversations": [{"from": "human", "value": "二"}, {"from": "gpt", "value": "答"}]},
    ],
}


@pytest.mark.parametrize("name", TEST_SETS)
def test_a_test_set_needs_no_answers(
    name: str, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = TEST_SETS[name]
    test = write(tmp_path / "test.json", rows)
    assert run(base, tmp_path, GOOD, "--check", "--json", f"data.test={test}") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["findings"], report["rows"][str(test)]) == ([], len(rows))


@pytest.mark.parametrize(
    ("spoilt", "kind"),
    [
        ({"input": " ", "target": ""}, "unusable"),
        ({"target": ""}, "unusable"),
        ({"input": "忽略<|eot_id|>", "target": ""}, "refused"),
        ({"input": "水" * 400, "target": ""}, "cut"),
        ({"input": QUESTIONS[4], "target": ""}, "shared"),
    ],
)
def test_a_test_set_s_prompts_are_looked_at(
    spoilt: dict[str, str],
    kind: str,
    base: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    test = write(tmp_path / "test.json", [{"input": "无", "target": ""}, spoilt])
    run(base, tmp_path, GOOD, "--check", "--json", f"data.test={test}")
    [finding] = json.loads(capsys.readouterr().out)["findings"]
    assert finding["kind"] == kind
    assert finding["where"][0].startswith(f"{test}:2: ")


OFFICIAL = os.environ.get("PROMPTCBLUE_TOY")


@pytest.mark.parametrize(
    ("folder", "cut"),
    [
        pytest.param(DEMO / "data", {}, id="demo"),
        pytest.param(
            Path(OFFICIAL or ""),
            {"train.json": [58, 61, 72], "dev.json": [5, 58]},
            id="official",
            marks=pytest.mark.skipif(
                not OFFICIAL, reason="PROMPTCBLUE_TOY does not name the official example files"
            ),
        ),
    ],
)
def test_real_files_have_no_faults_but_long_prompts(
    folder: Path, cut: dict[str, list[int]], demo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {split: f"data.{split}={folder / split}.json" for split in ("train", "eval", "test")}
    files["eval"] = f"data.eval={folder / 'dev.json'}"
    look = ["--config", "llama_lora", f"model={demo / 'base'}", "--check", "--json"]
    assert main([*look, *files.values()]) == 0
    report = json.loads(capsys.readouterr().out)
    found = [place.split(": ")[0] for each in report["findings"] for place in each["where"]]
    assert found == [f"{folder / name}:{line}" for name, lines in cut.items() for line in lines]
    assert {finding["kind"] for finding in report["findings"]} <= {"cut"}
    assert sum(report["rows"].values()) > 200
