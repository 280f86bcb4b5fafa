"""Causes of what the official reading leaves out, and the reading that mends them."""

from typing import Any

import pytest

from client.post_generate_process import CONVERTERS, read_rows, structured
from client.promptcblue.leniency import lenient
from tests.paths import SCORING

MARKED = [{"entity": "甲", "attr": "是"}]


def row(task: str, target: str, choices: Any = None) -> dict[str, Any]:
    return {"task_dataset": task, "target": target, "answer_choices": choices}


@pytest.mark.parametrize(
    ("task", "target", "choices", "answer", "causes"),
    [
        ("CHIP-CTC", " ", ["疾病"], "", ["empty"]),
        ("CHIP-CTC", "疾病", ["疾病"], "疾病", []),
        ("CHIP-CTC", " 非上述类型\n", ["疾病"], "非上述类型", []),
        ("CHIP-CTC", "答：疾病。", ["疾病", "药物"], "疾病", ["words around the label"]),
        ("KUAKE-IR", "不相关的", ["相关", "不相关"], "不相关", ["words around the label"]),
        ("CHIP-CTC", "疾病或药物", ["疾病", "药物"], "疾病或药物", ["unknown label"]),
        ("CHIP-CTC", "器官", ["疾病", "药物"], "器官", ["unknown label"]),
        ("CHIP-STS", "相同", ["相同", "不同"], "是的", []),
        ("CHIP-STS", "意思相同", ["相同", "不同"], "是的", ["words around the label"]),
        ("MedDG", "您好", None, "您好", []),
        ("CHIP-CTC", "是疾病", [1, 2], "是疾病", []),
        ("CHIP-CTC", "是疾病", "疾病", "是疾病", []),
        ("CMeEE-V2", "疾病实体:甲,乙", ["疾病"],
         [{"entity": "甲", "type": "疾病"}, {"entity": "乙", "type": "疾病"}],
         ["half-width punctuation"]),
        ("CMeEE-V2", "实体如下：\n疾病实体：", ["疾病"], [], []),
        ("CMeEE-V2", "感冒", ["疾病"], [], ["nothing understood"]),
        ("CMeEE-V2", "上述句子没有指定类型实体", ["疾病"], [], []),
        ("CMeIE", "具有治疗关系的头尾实体对如下：", ["治疗"], [], []),
        ("CMeIE", "具有治疗关系的头尾实体对如下:头实体为甲,尾实体为2.5克.", ["治疗"],
         [{"predicate": "治疗", "subject": "甲", "object": "2.5克"}],
         ["half-width punctuation"]),
        ("CMeIE", "甲治疗乙", ["治疗"], [], ["nothing understood"]),
        ("CHIP-CDN", "甲\n", ["甲"], [{"entity": "甲", "type": "normalization"}],
         ["white space"]),
        ("CHIP-CDN", "甲\n乙、丙", ["甲", "丙"],
         [{"entity": "甲", "type": "normalization"}, {"entity": "丙", "type": "normalization"}],
         ["terms on several lines"]),
        ("CHIP-CDN", "丁", ["甲"], [], ["nothing understood"]),
        ("CHIP-CDEE", "主体词：甲；发生状态：；描述词：；解剖部位：", None,
         [{"主体词": "甲", "发生状态": "", "描述词": [], "解剖部位": []}],
         ["no line before the answer"]),
        ("CHIP-CDEE", "无", None, [], ["nothing understood"]),
        ("IMCS-V2-SR", "如下：\n甲：是", ["是"], MARKED, []),
        ("IMCS-V2-SR", "如下：\n 甲：是 ", ["是"], MARKED, ["white space"]),
        ("IMCS-V2-SR", "甲:是", ["是"], MARKED, ["no line before the answer"]),
        ("IMCS-V2-SR", "如下：", ["是"], [], []),
        ("IMCS-V2-MRG", "诊断：感冒", None, {"诊断": "感冒"}, ["no line before the answer"]),
        ("IMCS-V2-MRG", "如下：\n诊断:感冒;发热", None, {"诊断": "感冒;发热"},
         ["half-width punctuation"]),
        ("IMCS-V2-MRG", "感冒", None, {}, ["nothing understood"]),
    ],
)  # fmt: skip
def test_what_a_text_means_and_what_its_format_cost(
    task: str, target: str, choices: Any, answer: Any, causes: list[str]
) -> None:
    assert lenient(row(task, target, choices), "head") == (answer, causes)


@pytest.mark.parametrize("converter", CONVERTERS)
def test_gold_texts_need_no_leniency(converter: str) -> None:
    for each in read_rows(SCORING / "v00_perfect.predictions.jsonl"):
        assert lenient(each, converter) == (structured(each, converter), []), each
