"""Tasks whose answer lists what a text mentions."""

import re
from random import Random

from training.demo.draft import Draft, listed, options, question
from training.demo.lexicon import (
    DEGREES,
    DEVICES,
    DISEASES,
    DRUG_CLASSES,
    EXAMS,
    MICROBES,
    PROCEDURES,
    SENSATIONS,
    SIDES,
    SPANS,
    SYMPTOMS,
    Disease,
)

# {type} marks a mention; its letter says where the word comes from (_word).
_NOTES = (
    "{疾病:d}常见{临床表现:s}和{临床表现:s}，可用{药物:m}。",
    "{疾病:d}由{微生物类:b}引起，累及{身体部位:p}。",
    "{医院科室:w}用{医学检验项目:e}检查{疾病:d}。",
    "{身体部位:p}不适伴{临床表现:s}者，予{医疗程序:o}。",
    "服{药物:m}后{临床表现:s}减轻，改用{医疗设备:v}观察。",
    "{疾病:d}患者先做{医学检验项目:e}，再行{医疗程序:o}。",
)
_NOTE_TYPES = (
    "疾病", "临床表现", "药物", "微生物类", "身体部位", "医院科室", "医学检验项目", "医疗程序",
    "医疗设备",
)  # fmt: skip
_TALK = (
    "孩子有点{症状:s}，昨天吃了{具体的药物名称:m}",
    "还有{症状:s}吗，要不要查{医学检查检验:e}",
    "先不用{药物类别:k}，做{医疗操作:o}就行",
    "{医学检查检验:e}正常，{症状:s}可以{医疗操作:o}",
    "{具体的药物名称:m}属于{药物类别:k}，{症状:s}时再吃",
    "一直{症状:s}，{症状:s}，吃{药物类别:k}没用",
)
_TALK_TYPES = ("症状", "具体的药物名称", "医学检查检验", "药物类别", "医疗操作")
_FACTS = {
    "临床表现": ("常有{x}", "会出现{x}"),
    "药物治疗": ("可服用{x}", "首选{x}"),
    "辅助检查": ("应做{x}", "可查{x}"),
    "病因": ("多因{x}所致", "与{x}有关"),
    "发病部位": ("病在{x}", "累及{x}"),
    "就诊科室": ("归{x}管", "请看{x}"),
}


def medical_entities(rng: Random) -> Draft:
    """CMeEE-V2: the entities of a textbook sentence, type by type."""
    return _entities(rng, _NOTES, _NOTE_TYPES, ("实体抽取：", "句中有哪些医学实体？"))


def dialogue_entities(rng: Random) -> Draft:
    """IMCS-V2-NER: the entities of a sentence in a consultation, type by type."""
    return _entities(rng, _TALK, _TALK_TYPES, ("问诊实体抽取：", "这句问诊提到了哪些实体？"))


def relations(rng: Random) -> Draft:
    """CMeIE: which facts a sentence states about a disease."""
    disease = rng.choice(DISEASES)
    stated = {name: _fact(rng, disease, name) for name in rng.sample(tuple(_FACTS), 2)}
    clauses = [rng.choice(_FACTS[name]).format(x=tail) for name, tail in stated.items()]
    choices = list(dict.fromkeys(options(rng, rng.choice(tuple(stated)), tuple(_FACTS), 3)))
    lines = [
        f"具有{name}关系的头尾实体对如下："
        + (f"头实体为{disease.name}，尾实体为{stated[name]}。" if name in stated else "")
        for name in choices
    ]
    text = f"{disease.name}患者{'，'.join(clauses)}。"
    prompt = rng.choice(("找出句中的关系三元组。", "句子里有哪些实体关系？"))
    return Draft(
        question(rng, text, prompt, f"关系选项：{listed(choices)}"), "\n".join(lines), choices
    )


def standard_terms(rng: Random) -> Draft:
    """CHIP-CDN: a patient's words as the coder's terms, chosen from candidates."""
    found = rng.sample(DISEASES, rng.choice((1, 1, 2)))
    others = [other.standard for other in DISEASES if other not in found]
    candidates = [disease.standard for disease in found] + rng.sample(others, 2)
    rng.shuffle(candidates)
    stated = "伴".join(disease.alias for disease in found)
    prompt = rng.choice(("对应的标准诊断名是？", "请选出匹配的标准词："))
    answer = listed([disease.standard for disease in found])
    return Draft(
        question(rng, stated, prompt, f"实体选项：{listed(candidates)}"), answer, candidates
    )


def clinical_events(rng: Random) -> Draft:
    """CHIP-CDEE: findings with their state, description and body part."""
    makers = rng.sample((_described, _denied, _suspected, _placed), 2)
    events = [make(rng) for make in makers]
    text = f"患者{rng.choice(SPANS)}来{'，'.join(said for said, _ in events)}。"
    prompt = rng.choice(("抽取临床发现事件及其属性。", "句中有哪些临床发现事件？"))
    answer = "\n".join(["上述句子中的临床发现事件如下：", *(event for _, event in events)])
    return Draft(question(rng, text, prompt), answer)


def _entities(
    rng: Random, patterns: tuple[str, ...], types: tuple[str, ...], prompts: tuple[str, str]
) -> Draft:
    text, mentions = _mentions(rng, rng.choice(patterns))
    choices = options(rng, rng.choice(tuple(mentions)), types, 3)
    lines = [f"{kind}实体：{listed(mentions.get(kind, []))}" for kind in choices]
    answer = "\n".join(["上述句子中的实体包含：", *lines])
    prompt = question(rng, rng.choice(prompts), text, f"实体类型：{listed(choices)}")
    return Draft(prompt, answer, choices)


def _mentions(rng: Random, pattern: str) -> tuple[str, dict[str, list[str]]]:
    """Fill a pattern; returns the text and its words by type, in the order of the text."""
    disease = rng.choice(DISEASES)
    found: dict[str, list[str]] = {}

    def put(match: re.Match[str]) -> str:
        taken = found.setdefault(match[1], [])
        word = rng.choice([word for word in _words(disease, match[2]) if word not in taken])
        taken.append(word)
        return word

    text = re.sub(r"\{(.+?):(.)\}", put, pattern)
    return text, found


def _words(disease: Disease, letter: str) -> tuple[str, ...]:
    own = {"d": disease.name, "m": disease.drug, "p": disease.part, "w": disease.ward}
    if letter in own:
        return (own[letter],)
    pools = {"b": MICROBES, "o": PROCEDURES, "v": DEVICES, "k": DRUG_CLASSES, "e": EXAMS}
    return pools.get(letter, disease.symptoms)


def _fact(rng: Random, disease: Disease, relation: str) -> str:
    return {
        "临床表现": rng.choice(disease.symptoms),
        "药物治疗": disease.drug,
        "辅助检查": disease.exam,
        "病因": disease.cause,
        "发病部位": disease.part,
        "就诊科室": disease.ward,
    }[relation]


def _event(subject: str, state: str = "", description: str = "", part: str = "") -> str:
    return f"主体词：{subject}；发生状态：{state}；描述词：{description}；解剖部位：{part}"


def _described(rng: Random) -> tuple[str, str]:
    symptom, degree = rng.choice(SYMPTOMS), rng.choice(DEGREES)
    return f"{degree}{symptom}", _event(symptom, description=degree)


def _denied(rng: Random) -> tuple[str, str]:
    symptom = rng.choice(SYMPTOMS)
    return f"无{symptom}", _event(symptom, "否定")


def _suspected(rng: Random) -> tuple[str, str]:
    disease = rng.choice(DISEASES).name
    return f"可疑{disease}", _event(disease, "不确定")


def _placed(rng: Random) -> tuple[str, str]:
    side, feeling = rng.choice(SIDES), rng.choice(SENSATIONS)
    return f"{side}{feeling}", _event(feeling, part=side)
