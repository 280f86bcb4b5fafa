"""Tasks whose answer is one label for one sentence."""

from collections.abc import Mapping
from random import Random

from training.demo.draft import Draft, listed, options, question
from training.demo.lexicon import DISEASES, PEOPLE, SPANS

_INTENTS = {
    "病情诊断": ("{s}还{t}是得了什么病", "总是{s}会不会是{d}", "{s}是不是{d}的表现"),
    "病因分析": ("{d}是什么原因引起的", "为什么会得{d}", "怎么会突然{s}，原因在哪"),
    "治疗方案": ("{d}怎么治疗", "{d}有什么好的治法", "{d}吃什么药好得快"),
    "就医建议": ("{d}应该挂哪个科", "{s}要去看什么科室", "{d}去哪里的医院看"),
    "指标解读": ("{e}结果偏高说明什么", "{e}数值异常代表什么", "{e}报告上的箭头怎么看"),
    "疾病描述": ("什么是{d}", "请介绍一下{d}", "{d}这种病的概念"),
    "后果表述": ("{d}拖着会有什么后果", "{d}不管它会怎样", "{d}的危害大不大"),
    "注意事项": ("{d}平时要注意什么", "{d}有哪些东西不能吃", "得了{d}需要忌口吗"),
    "功效作用": ("{m}有什么作用", "{m}的功效是什么", "吃{m}有什么好处"),
    "医疗费用": ("治{d}要花多少钱", "做{e}贵不贵", "{m}多少钱一盒"),
}
_CRITERIA = {
    "年龄": ("年龄在{n}到{k}岁之间", "满{n}周岁者", "未满{n}周岁"),
    "性别": ("男女不限", "仅限男性入组", "受试者须为女性"),
    "怀孕相关": ("妊娠或哺乳期妇女", "怀孕{n}周以上者", "计划怀孕的妇女"),
    "吸烟状况": ("每天吸烟超过{n}支", "有吸烟史{n}年以上", "目前仍在吸烟者"),
    "过敏耐受": ("对{m}过敏者", "对{m}不能耐受", "有{m}过敏史"),
    "知情同意": ("签署知情同意书", "自愿参加并签署同意书", "拒绝签署知情同意"),
    "疾病": ("合并{d}者", "既往患有{d}", "确诊{d}满{n}年"),
    "治疗或手术": ("做过{p}手术", "近{n}天接受过手术", "正在接受放射治疗"),
    "药物": ("近{n}天服用过{m}", "长期使用{m}者", "入组前已停用{m}"),
    "实验室检查": ("白细胞低于{n}", "血红蛋白低于{k}克", "{e}结果超出正常值"),
    "参与其它试验": ("{n}周内参加过其他试验", "正参与别的临床试验", "同期加入另一项试验"),
    "饮食": ("每日饮酒超过{n}两", "只吃素食者", "不能按要求进食早餐"),
    "研究者决定": ("研究者认为不宜入选", "经研究者判断不合适", "由研究者决定是否退出"),
}
_ACTS = {
    "关于症状的询问": ("宝宝有{s}吗", "最近{s}厉不厉害", "除了{s}还有别的不舒服吗"),
    "关于症状的回答": ("就是{s}，{n}天了", "没有{s}，只是{t}", "{s}好一点了，还{t}"),
    "关于病因的询问": ("这是什么原因引起的", "怎么会得{d}呢", "为什么老是{s}"),
    "关于病因的回答": ("这是{c}引起的", "主要因为{c}", "一般都是{c}造成的"),
    "关于个人基本信息的询问": ("孩子多大了", "请问体重多少", "几个月的宝宝"),
    "关于个人基本信息的回答": ("宝宝{n}个月了", "今年{n}岁", "体重{n}公斤"),
    "关于已有检查和治疗的提问": ("做过{e}没有", "之前查过{e}吗", "有没有吃过{m}"),
    "关于已有检查和治疗的回答": ("昨天做了{e}", "已经吃过{m}了", "{e}做过，正常"),
    "关于用药建议的提问": ("可以吃{m}吗", "{m}一次吃几片", "要不要用{m}"),
    "关于用药建议的解答": ("建议口服{m}", "给孩子用点{m}", "{m}每天{n}次"),
    "关于就医建议的提问": ("需要去医院吗", "要挂什么科", "用不用到{w}看看"),
    "关于就医建议的解答": ("建议到{w}就诊", "请带孩子去{w}", "最好去医院{w}检查"),
    "给出诊断": ("考虑是{d}", "应该是{d}", "这是典型的{d}"),
    "非上述类型": ("谢谢医生，{n}分好评", "好的，{n}号再聊", "你好，我是{n}号"),
}


def search_intent(rng: Random) -> Draft:
    """KUAKE-QIC: what a search for health advice wants to know."""
    query, intent = _sentence(rng, _INTENTS)
    choices = options(rng, intent, tuple(_INTENTS))
    prompt = rng.choice(("这句搜索想问的是哪一类？", "判断搜索词的意图类别："))
    return Draft(question(rng, prompt, query, f"选项：{listed(choices)}"), intent, choices)


def trial_criterion(rng: Random) -> Draft:
    """CHIP-CTC: the kind of a clinical trial's screening criterion."""
    text, kind = _sentence(rng, _CRITERIA)
    choices = options(rng, kind, tuple(_CRITERIA))
    prompt = rng.choice(("它属于哪类筛选标准？", "请选出这条入组标准的类型："))
    line = f"{rng.randint(1, 9)}、{text}；"
    return Draft(question(rng, line, prompt, f"选项：{listed(choices)}"), kind, choices)


def dialogue_act(rng: Random) -> Draft:
    """IMCS-V2-DAC: what one sentence of a consultation does.

    As in the benchmark, "非上述类型" is the answer when no choice fits, never a choice.
    """
    text, act = _sentence(rng, _ACTS)
    labels = tuple(_ACTS)[:-1]
    choices = options(rng, act, labels)
    if act not in labels:
        choices.remove(act)
    prompt = rng.choice(("这句问诊对话的意图是？", "说话的人想做什么？"))
    return Draft(question(rng, prompt, text, f"选项：{listed(choices)}"), act, choices)


def _sentence(rng: Random, patterns: Mapping[str, tuple[str, ...]]) -> tuple[str, str]:
    """A filled pattern and its label."""
    label = rng.choice(tuple(patterns))
    return _fill(rng, rng.choice(patterns[label])), label


def _fill(rng: Random, pattern: str) -> str:
    disease = rng.choice(DISEASES)
    symptom, other = rng.sample(disease.symptoms, 2)
    return pattern.format(
        **disease.words,
        s=symptom,
        t=other,
        n=rng.randint(2, 30),
        k=rng.randint(50, 80),
        u=rng.choice(SPANS),
        o=rng.choice(PEOPLE),
    )
