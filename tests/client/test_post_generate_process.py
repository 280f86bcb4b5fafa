"""The converter against the official ones' results, and on rows that make those crash."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from client import post_generate_process
from client.post_generate_process import CONVERTERS, PARSERS, main, results, structured
from tests.paths import SCORING

VARIANTS = sorted(path.name.split(".")[0] for path in SCORING.glob("*.expected.json"))


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def as_sets(structure: dict[str, Any]) -> dict[str, Any]:
    """The official converters write CHIP-CDN's terms in an order that changes with every run."""
    for answer in structure["CHIP-CDN"]:
        answer["answer"] = sorted(item["entity"] for item in answer["answer"])
    return structure


@pytest.mark.parametrize("converter", CONVERTERS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_results_equal_the_official_ones(variant: str, converter: str) -> None:
    rows = read(SCORING / f"{variant}.predictions.jsonl")
    official = json.loads((SCORING / f"{variant}.results.{converter}.json").read_text("utf-8"))
    made = results(iter(rows), converter)
    assert as_sets(made) == as_sets({task: each for task, each in official.items() if each})


def test_alone_in_a_folder_it_gives_the_same_and_the_hash_seed_changes_nothing(
    tmp_path: Path,
) -> None:
    source = Path(post_generate_process.__file__)
    (tmp_path / source.name).write_bytes(source.read_bytes())
    predictions = SCORING / "v01_drop_lines.predictions.jsonl"
    (tmp_path / "test_predictions.json").write_bytes(predictions.read_bytes())
    outputs = []
    for flags, seed in (("-IS", "0"), ("-S", "0"), ("-S", "1")):  # -I does not look at the seed
        subprocess.run(
            [sys.executable, flags, source.name, "test_predictions.json", "results.json"],
            cwd=tmp_path, check=True, env={"PYTHONHASHSEED": seed}, capture_output=True,
        )  # fmt: skip
        outputs.append((tmp_path / "results.json").read_bytes())
    assert outputs[0] == outputs[1] == outputs[2]
    assert json.loads(outputs[0]) == results(iter(read(predictions)), "head")


def row(task: str, target: str, choices: Any = None) -> dict[str, Any]:
    return {
        "sample_id": "dev-7", "input": "病人头痛", "target": target, "answer_choices": choices,
        "task_type": "any", "task_dataset": task,
    }  # fmt: skip


NER, STS = row("CMeEE-V2", "疾病实体：感冒", ["疾病"]), row("CHIP-STS", "相同", ["相同", "不同"])


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"", "a blank line"),
        (b"{'a': 1}", "broken JSON"),
        (b'\xef\xbb\xbf{"a": 1}', "byte order mark"),
        (b'{"a": "\xff"}', "not UTF-8 (byte 7)"),
        (b"[" * 100_000, "broken JSON"),
        ([STS], "expected a JSON object, found list"),
        (STS | {"sample_id": 7}, 'sample_id 7: the field "sample_id" is 7, not a string'),
        (STS | {"sample_id": "dev-1"}, 'sample_id "dev-1": the field "sample_id" is the same'),
        (STS | {"target": None}, '"dev-7": the field "target" is null, not a string'),
        (STS | {"target": ["相同"]}, '"dev-7": the field "target" is a list, not a string'),
        (STS | {"task_dataset": "CMeIE-V3"}, 'the field "task_dataset" names an unknown task'),
        (NER | {"answer_choices": None}, 'the field "answer_choices" is null, not a list'),
        (NER | {"answer_choices": "疾病"}, 'the field "answer_choices" is a string, not a list'),
        (NER | {"answer_choices": [1]}, 'the field "answer_choices" is a list'),
        (row("CHIP-CDN", "a"), 'the field "answer_choices" is null, not a list'),
        (row("IMCS-V2-SR", "a\nb：c"), 'the field "answer_choices" is null, not a list'),
        *(
            ({name: value for name, value in NER.items() if name != field},
             f'the field "{field}" is missing')
            for field in NER
        ),
    ],
)  # fmt: skip
def test_a_bad_row_is_told_and_nothing_is_written(
    line: Any, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = json.dumps(STS | {"sample_id": "dev-1"}).encode()
    bad = line if isinstance(line, bytes) else json.dumps(line, ensure_ascii=False).encode()
    predictions, out = tmp_path / "predictions.json", tmp_path / "results.json"
    predictions.write_bytes(good + b"\n" + bad + b"\n")
    assert main([str(predictions), str(out)]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"error: {predictions}:2: ")
    assert words in told
    assert not out.exists()


def test_the_results_never_replace_the_predictions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predictions = tmp_path / "predictions.json"
    predictions.write_text(json.dumps(STS))
    assert main([str(predictions), str(predictions)]) == 2
    assert "holds the predictions" in capsys.readouterr().err
    assert json.loads(predictions.read_text()) == STS


def test_a_file_that_is_not_there_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path / "none.json"), str(tmp_path / "results.json")]) == 2
    assert "cannot read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("task", "target", "choices", "answer"),
    [
        ("CMeEE-V2", "疾病实体：甲， ，乙\n症状实体：丙", ["疾病"],
         [{"entity": "甲", "type": "疾病"}, {"entity": "乙", "type": "疾病"}]),
        ("CMeIE-V2", "具有治疗关系的头尾实体对如下：头实体为甲，尾实体为乙。头实体为丙。", [],
         [{"predicate": "治疗", "subject": "甲", "object": "乙"}]),
        ("CHIP-CDN", "感冒\n咳嗽，感冒，咳嗽，头痛", ["感冒", "咳嗽"],
         [{"entity": "咳嗽", "type": "normalization"},
          {"entity": "感冒", "type": "normalization"}]),
        ("CHIP-CDN", "腺瘤，囊肿", "管状腺瘤", [{"entity": "腺瘤", "type": "normalization"}]),
        ("CHIP-CDEE", "", None, []),
        ("CHIP-CDEE", "如下：\n", None,
         [{"主体词": "", "发生状态": "", "描述词": [], "解剖部位": []}]),
        ("CHIP-MDCFNPC", "如下：\n甲：是 \n乙：是\n丙：是：否\n丁", ["是"],
         [{"entity": "甲", "attr": "不标注"}, {"entity": "乙", "attr": "是"}]),
        ("IMCS-V2-SR", "如下：\n甲：也许", ["是"],
         [{"entity": "甲", "attr": "无法根据上下文确定病人是否患有该症状"}]),
        ("IMCS-V2-MRG", "如下：\n诊断：甲\n建议：乙\n诊断：丙", None,
         {"诊断": "丙", "建议": "乙"}),
        ("MedDG", " 您好\u2028吗 ", None, "您好\u2028吗"),
    ],
)  # fmt: skip
def test_what_the_official_reading_makes_of_texts_that_are_off(
    task: str, target: str, choices: Any, answer: Any
) -> None:
    assert structured(row(task, target, choices)) == answer


def test_the_older_converter_widens_the_first_hundred_marks_only() -> None:
    text = structured(row("MedDG", "a," * 101), "v16")
    assert text == "a，" * 100 + "a,"


def test_both_names_of_the_relation_task_are_known_and_kept() -> None:
    rows = [row(task, "") for task in ("CMeIE", "CMeIE-V2")]
    assert list(results(iter(rows), "head")) == ["CMeIE", "CMeIE-V2"]
    assert len(PARSERS) == 17
