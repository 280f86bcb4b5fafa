"""Tasks about a short consultation between a patient and a doctor."""

from collections.abc import Mapping, Sequence
from random import Random

from training.demo.draft import Draft, listed, question
from training.demo.lexicon import DISEASES, SPANS, Disease

_FINDING = {
    "已有症状疾病或者假设未来可能发生的疾病等": ("我最近{s}", "现在还是{s}"),
    "未患有症状疾病": ("没有{s}", "从来不{s}"),
    "没有回答、不知道、回答不明确或者模棱两可不好推断": ("好像有点{s}，说不准", "{s}不太清楚"),
    "无实际意义的不标注或者和病人当前的状态独立不标注": ("邻居以前{s}", "书上提到过{s}"),
}
_SYMPTOM = {
    "患有该症状": ("有{s}", "一直{s}"),
    "没有患有该症状": ("没有{s}", "不{s}"),
    "无法根据上下文确定病人是否患有该症状": ("会{s}吗", "{s}怎么办"),
}
_REPORT = ("主诉", "现病史", "辅助检查", "既往史", "诊断", "建议")
_TURNS = {
    "我{s}，怎么回事": "您好，{s}有多久了？",
    "{s}有{u}了": "除了{s}还有别的不舒服吗？",
    "除了{s}还有{t}": "建议到{w}做个{e}。",
    "{e}做过了，没问题": "那考虑是{d}，可以吃{m}。",
    "吃{m}要注意什么": "{m}要饭后吃，多喝水。",
    "好的，谢谢医生": "不客气，祝您早日康复。",
}


def finding_states(rng: Random) -> Draft:
    """CHIP-MDCFNPC: for each finding, does the patient have it?"""
    labels = tuple(_FINDING)
    symptoms = rng.sample(rng.choice(DISEASES).symptoms, 2)
    said, lines = _in_states(rng, symptoms, _FINDING)
    prompt = rng.choice(("判断临床发现的阴阳性。", "下列临床发现病人有没有？"))
    text = question(
        rng,
        prompt,
        "医生：哪里不舒服？",
        f"患者：{said}。",
        f"临床发现实体：{listed(symptoms)}",
        f"选项：{listed(labels)}",
    )
    answer = "\n".join(["上述对话中临床发现实体以及其阴阳性判别如下：", *lines])
    return Draft(text, answer, list(labels))


def symptom_states(rng: Random) -> Draft:
    """IMCS-V2-SR: which symptoms does the current sentence name, and are they present?"""
    labels = tuple(_SYMPTOM)
    before, *symptoms = rng.sample(rng.choice(DISEASES).symptoms, rng.choice((2, 3)))
    said, lines = _in_states(rng, symptoms, _SYMPTOM)
    prompt = rng.choice(("当前对话有哪些症状，阴阳性如何？", "找出当前对话的症状并判断阴阳性。"))
    text = question(
        rng,
        f"对话历史：\n医生：{before}吗\n当前对话：\n患者：{said}",
        prompt,
        f"选项：{listed(labels)}",
    )
    answer = "\n".join(["当前对话中的症状及其阴阳性判断为：", *lines])
    return Draft(text, answer, list(labels))


def _in_states(
    rng: Random, symptoms: Sequence[str], phrases: Mapping[str, tuple[str, ...]]
) -> tuple[str, list[str]]:
    """What is said of symptoms in random states, and the answer's line on each."""
    pairs = [(symptom, rng.choice(tuple(phrases))) for symptom in symptoms]
    said = [rng.choice(phrases[state]).format(s=symptom) for symptom, state in pairs]
    return listed(said), [f"{symptom}：{state}" for symptom, state in pairs]


def consultation_report(rng: Random) -> Draft:
    """IMCS-V2-MRG: a consultation as a report of six sections."""
    disease, span = rng.choice(DISEASES), rng.choice(SPANS)
    main, denied, _ = rng.sample(disease.symptoms, 3)
    examined = rng.random() < 0.5
    talk = (
        f"患者：{main}{span}了\n医生：{denied}吗\n患者：没有"
        + (f"，查了{disease.exam}" if examined else "")
        + f"\n医生：考虑{disease.name}，吃{disease.drug}"
    )
    sections = (
        f"{main}{span}",
        f"{main}{span}，无{denied}",
        f"已查{disease.exam}" if examined else "暂无",
        "不详",
        disease.name,
        f"服用{disease.drug}",
    )
    lines = [f"{name}：{text}。" for name, text in zip(_REPORT, sections, strict=True)]
    prompt = rng.choice(("把问诊写成诊疗报告：", "请总结这段问诊："))
    answer = "\n".join(["上述问诊对话的诊疗报告如下：", *lines])
    return Draft(question(rng, prompt, talk), answer)


def doctor_reply(rng: Random) -> Draft:
    """MedDG: the doctor's next sentence."""
    disease = rng.choice(DISEASES)
    symptom, other = rng.sample(disease.symptoms, 2)
    span = rng.choice(SPANS)
    turns = [
        (_say(said, disease, symptom, other, span), _say(reply, disease, symptom, other, span))
        for said, reply in _TURNS.items()
    ]
    last = rng.randrange(len(turns))
    talk = [f"患者：{said}\n医生：{reply}" for said, reply in turns[max(0, last - 1) : last]]
    prompt = rng.choice(("医生接下来怎么说？", "写出医生的下一句回复："))
    said, reply = turns[last]
    return Draft(question(rng, prompt, *talk, f"患者：{said}"), reply)


def _say(pattern: str, disease: Disease, symptom: str, other: str, span: str) -> str:
    return pattern.format(**disease.words, s=symptom, t=other, u=span)
