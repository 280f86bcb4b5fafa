"""Structured rows become prompts by the user's own template file."""

import json
import textwrap
from pathlib import Path
from typing import Any

import pytest
import yaml

from training.data import Layout, load_rows
from training.prompts.__main__ import EXAMPLES, main

TEMPLATES = {
    "实体": {
        "prompts": [
            "找出{{ shuffled(labels) | join('，') }}：\n{{ text }}\n答：",
            "{{ text }}\n里面有哪些{{ shuffled(labels) | join('、') }}？",
            "{{ text }}（实体）",
        ],
        "answer": "{% for type, found in entities | groupby('type') %}\n{{ type }}实体："
        "{{ found | map(attribute='entity') | join('，') }}\n{% else %}\n没有实体\n{% endfor %}",
    },
    "default": {"prompts": ["{{ text }}"]},
}
LABELS = ["疾病", "药物", "检查", "症状", "部位"]
ROWS: list[dict[str, Any]] = [
    {
        **{"text": f"第{number}个病人咽痛，服阿莫西林", "labels": LABELS, "task_dataset": "实体"},
        **{"sample_id": f"train-{number}", "answer_choices": LABELS},
        "entities": [
            {"entity": "阿莫西林", "type": "药物"},
            {"entity": "咽", "type": "部位"},
            {"entity": "口咽", "type": "部位"},
        ],
    }
    for number in range(40)
]


def fill(folder: Path, rows: list[Any], templates: object, *options: str) -> int:
    text = "\n".join(each if isinstance(each, str) else json.dumps(each) for each in rows)
    (folder / "rows.json").write_text(text)
    text = templates if isinstance(templates, str) else yaml.safe_dump(templates)
    (folder / "t.yaml").write_text(text)
    paths = {"--input": "rows.json", "--templates": "t.yaml", "--output": "out.json"}
    named = [word for key, name in paths.items() for word in (key, str(folder / name))]
    return main([*named, *options])


def filled(folder: Path, rows: list[Any], *options: str) -> list[dict[str, Any]]:
    (folder / "out.json").unlink(missing_ok=True)
    assert fill(folder, rows, TEMPLATES, *options) == 0
    lines = (folder / "out.json").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_each_row_gets_several_prompts_from_different_templates(tmp_path: Path) -> None:
    samples = filled(tmp_path, ROWS, "--per-row", "2")
    assert len(samples) == 80
    assert len({sample["sample_id"] for sample in samples}) == 80
    assert samples[0]["target"] == "药物实体：阿莫西林\n部位实体：咽，口咽\n"
    assert samples[0]["answer_choices"] == LABELS
    assert all(ROWS[i // 2]["text"] in sample["input"] for i, sample in enumerate(samples))
    pairs = zip(samples[::2], samples[1::2], strict=True)
    assert all(first["input"] != second["input"] for first, second in pairs)
    kinds = [sample["input"].endswith("（实体）") for sample in samples]
    assert 10 < sum(kinds) < 45  # a third of them
    orders = {sample["input"].split("：")[0] for sample in samples if "找出" in sample["input"]}
    assert len(orders) > 10
    rows = load_rows(tmp_path / "out.json", Layout())
    assert [row.task for row in rows] == ["实体"] * 80


def test_the_choice_follows_from_the_seed_and_the_row_s_number(tmp_path: Path) -> None:
    samples = filled(tmp_path, ROWS, "--per-row", "2")
    assert filled(tmp_path, ROWS, "--per-row", "2") == samples
    assert filled(tmp_path, ROWS[:7], "--per-row", "2") == samples[:14]
    assert filled(tmp_path, ROWS, "--per-row", "2", "--seed", "1") != samples


def test_rows_of_other_tasks_and_without_an_answer(tmp_path: Path) -> None:
    rows = [{"text": "无"}, {"text": "别的", "task_dataset": "别的"}, {**ROWS[0], "entities": []}]
    samples = filled(tmp_path, rows, "--per-row", "9")
    assert samples[0] == {"input": "无", "target": ""}
    assert samples[1] == {"input": "别的", "target": "", "task_dataset": "别的"}
    assert [sample["target"] for sample in samples[2:]] == ["没有实体\n"] * 3


BROKEN_TEMPLATES = [
    ([], "maps names of tasks"),
    ("a: [", "is no YAML"),
    ("text", "maps names of tasks"),
    ({"a": {"prompts": []}}, "a.prompts"),
    ({"a": {"prompts": ["x"], "ansver": "y"}}, "a.ansver"),
    ({"a": {"prompts": ["{{ text"]}}, "a.prompts.0"),
    ({"a": {"prompts": ["x"], "answer": "{% if %}"}}, "a.answer"),
    ({"a": {"prompts": ["{{ text }}"]}}, "no templates for default"),
    ({"default": {"prompts": ["{{ texte }}"]}}, "rows.json:1: default.prompts.0: 'texte'"),
    ({"default": {"prompts": ["{{ 1 / 0 }}"]}}, "default.prompts.0: division by zero"),
    ({"default": {"prompts": ["{{ shuffled(3) }}"]}}, "default.prompts.0"),
    ({"default": {"prompts": ["{{ text.__class__.mro() }}"]}}, "unsafe"),
    ({"default": {"prompts": [" "]}}, "empty prompt"),
]


@pytest.mark.parametrize(("templates", "told"), BROKEN_TEMPLATES, ids=lambda value: str(value)[:40])
def test_a_broken_template_is_told_with_its_place(
    templates: object, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fill(tmp_path, [{"text": "咽痛"}], templates) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("{", "rows.json:2: broken JSON"),
        ("3", "rows.json:2: expected a JSON object"),
        ({"texts": "x"}, "rows.json:2: default.prompts.0: 'text' is undefined"),
        ({"text": "\ud83d"}, "rows.json:2: holds half of a character"),
    ],
)
def test_a_row_that_cannot_be_filled_is_told_with_its_line(
    row: Any, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fill(tmp_path, [{"text": "a"}, row], TEMPLATES) == 2
    assert told in capsys.readouterr().err


def test_an_output_is_never_written_over(tmp_path: Path) -> None:
    (tmp_path / "out.json").write_text("kept")
    assert fill(tmp_path, [{"text": "a"}], TEMPLATES) == 2
    assert (tmp_path / "out.json").read_text() == "kept"


def test_the_example_of_the_help_works(tmp_path: Path) -> None:
    text = EXAMPLES[EXAMPLES.index("  CMeEE") : EXAMPLES.index("example:")]
    row = {**ROWS[0], "task_dataset": "CMeEE-V2"}
    assert fill(tmp_path, [row], textwrap.dedent(text)) == 0
    sample = json.loads((tmp_path / "out.json").read_text("utf-8"))
    assert sample["target"].startswith("上述句子中的实体包含：\n药物实体：阿莫西林\n")
