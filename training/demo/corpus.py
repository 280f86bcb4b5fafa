"""The text that the demo's base model reads before any instruction tuning.

It holds the questions of the training split and a textbook made from the lexicon. No sample's
answer follows its question here: what to answer is left for fine-tuning to teach.
"""

from collections.abc import Sequence
from random import Random

from training.demo.lexicon import (
    DEGREES,
    DEVICES,
    DISEASES,
    DRUG_CLASSES,
    DRUGS,
    EXAMS,
    MICROBES,
    PARTS,
    PROCEDURES,
    SENSATIONS,
    SIDES,
    SPANS,
    SYMPTOMS,
    WARDS,
    Disease,
)

_KINDS = {
    "疾病": tuple(disease.name for disease in DISEASES),
    "临床表现": SYMPTOMS,
    "药物": DRUGS,
    "医学检验项目": EXAMS,
    "身体部位": (*PARTS, *SIDES),
    "医院科室": WARDS,
    "微生物类": MICROBES,
    "医疗设备": DEVICES,
    "医疗程序": PROCEDURES,
    "药物类别": DRUG_CLASSES,
    "感觉": SENSATIONS,
    "程度": DEGREES,
    "时间": SPANS,
}
_FACTS = (
    "{d}俗称{a}，规范名称为{n}。",
    "{a}就是{d}，编码时写{n}。",
    "{d}由{c}引起，位置在{p}。",
    "{d}的病人会{x}、{y}。",
    "{x}、{y}是{d}的症状。",
    "{d}用{m}治疗，用{e}检查，去{w}看。",
    "{w}的医生用{e}查{d}，再开{m}。",
)
_FORMS = (
    "上述句子中的实体包含", "上述句子中的临床发现事件如下", "具有临床表现关系的头尾实体对如下",
    "具有药物治疗关系的头尾实体对如下", "具有辅助检查关系的头尾实体对如下",
    "具有病因关系的头尾实体对如下", "具有发病部位关系的头尾实体对如下",
    "具有就诊科室关系的头尾实体对如下", "头实体为", "尾实体为", "主体词", "发生状态", "描述词",
    "解剖部位", "否定", "不确定", "上述对话中临床发现实体以及其阴阳性判别如下",
    "当前对话中的症状及其阴阳性判断为", "上述问诊对话的诊疗报告如下", "主诉", "现病史",
    "辅助检查", "既往史", "诊断", "建议", "暂无", "不详", "服用", "已查", "实体", "非上述类型",
    "您好", "有多久了", "还有别的不舒服吗", "不客气", "祝您早日康复", "要饭后吃", "多喝水",
    "那考虑是", "可以吃", "做个", "除了",
)  # fmt: skip
_MARKS = ("", "，", "；", "：", "\n")
_WORDS = tuple(word for words in _KINDS.values() for word in words)


def corpus(questions: Sequence[str], passages: int, seed: int) -> list[str]:
    """The questions and `passages` textbook passages, shuffled: one document each."""
    rng = Random(f"textbook {seed}")
    kinds = (_facts, _glossary, _recital, _recital, _index, _index)
    documents = [*questions, *(rng.choice(kinds)(rng) for _ in range(passages))]
    rng.shuffle(documents)
    return documents


def _facts(rng: Random) -> str:
    """Three things to know about one disease."""
    disease = rng.choice(DISEASES)
    return "".join(_state(rng, disease, fact) for fact in rng.sample(_FACTS, 3))


def _state(rng: Random, disease: Disease, fact: str) -> str:
    first, second = rng.sample(disease.symptoms, 2)
    return fact.format(**disease.words, n=disease.standard, x=first, y=second)


def _glossary(rng: Random) -> str:
    """What some words are."""
    kinds = rng.choices(tuple(_KINDS), k=rng.randint(2, 4))
    return "".join(f"{rng.choice(_KINDS[kind])}是{kind}。" for kind in kinds)


def _recital(rng: Random) -> str:
    """A few words over and over: text that can be read by copying."""
    words = [rng.choice(rng.choice((_WORDS, _FORMS))) for _ in range(rng.randint(3, 6))]
    line = rng.choice(_MARKS).join(words) + rng.choice(("", "。"))
    return line * rng.randint(2, 4)


def _index(rng: Random) -> str:
    """Words in a row, then each again under its kind: text to be read by kind."""
    kinds = rng.sample(tuple(_KINDS), rng.randint(2, 5))
    words = {kind: rng.choice(_KINDS[kind]) for kind in kinds}
    row = "".join(word + rng.choice("，、。的和") for word in words.values())
    rng.shuffle(kinds)
    return f"{row}索引" + "".join(f"{kind}：{words[kind]}。" for kind in kinds)
