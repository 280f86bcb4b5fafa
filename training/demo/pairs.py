"""Tasks whose answer compares two sentences.

What decides is how the two ask, and of what: never a single rare word.
"""

from random import Random

from training.demo.draft import Draft, listed, question
from training.demo.lexicon import DISEASES, ERRANDS, NOTICES, PEOPLE, Disease

_WAYS = {
    "治疗": ("{d}怎么治疗", "{d}如何治疗好", "治疗{d}的方法"),
    "病因": ("{d}是怎么引起的", "{d}由什么引起", "引起{d}的原因"),
    "检查": ("{d}要做什么检查", "怎么检查{d}", "{d}的检查项目"),
    "症状": ("{d}有什么症状", "{d}的症状是哪些", "哪些症状是{d}"),
    "挂号": ("{d}挂什么号", "看{d}挂哪个号", "{d}挂号挂哪科"),
}
_REPLIES = {
    "治疗": "{d}一般用{m}治疗。",
    "病因": "{d}多由{c}引起。",
    "检查": "{d}可以做{e}检查。",
    "症状": "{d}的症状有{s}。",
    "挂号": "{d}请挂{w}的号。",
}
_COMPARED = ("治疗", "病因", "检查")
_SAME = ("是的", "不是")
_RELEVANT = ("相关", "不相关")
_SUBSET = ("完全一致", "后者是前者的语义子集", "后者是前者的语义父集", "语义无直接关联")
_MATCH = ("完全不匹配或者没有参考价值", "很少匹配有一些参考价值", "部分匹配", "完全匹配")


def same_question(rng: Random) -> Draft:
    """CHIP-STS: do two questions about one disease ask the same thing?"""
    gold = rng.choice(_SAME)
    disease, (way, other) = rng.choice(DISEASES).name, rng.sample(_COMPARED, 2)
    if gold == "是的":
        first, second = _two_ways(rng, disease, way)
    else:
        first, second = _ask(rng, disease, way), _ask(rng, disease, other)
    prompt = rng.choice(("这两句问的是同一件事吗？", "两个问题意思相同吗？"))
    return _pair(rng, prompt, (first, second), (gold, _SAME))


def answer_relevance(rng: Random) -> Draft:
    """KUAKE-IR: does a passage answer the search?"""
    gold = rng.choice(_RELEVANT)
    disease, way = rng.choice(DISEASES), rng.choice(tuple(_WAYS))
    passage = _reply(rng, disease, way) if gold == "相关" else rng.choice(NOTICES)
    text = f"搜索：{_ask(rng, disease.name, way)}\n回答内容：{passage}"
    prompt = rng.choice(("回答能解决这个搜索吗？", "搜索和回答有关系吗？"))
    return Draft(question(rng, text, prompt, f"选项：{listed(_RELEVANT)}"), gold, list(_RELEVANT))


def query_relation(rng: Random) -> Draft:
    """KUAKE-QQR: is the second search the same as the first, narrower, wider, or unrelated?"""
    gold = rng.choice(_SUBSET)
    disease, way = rng.choice(DISEASES).name, rng.choice(tuple(_WAYS))
    first, second = _two_ways(rng, disease, way)
    narrow = rng.choice(PEOPLE)
    if gold == "后者是前者的语义子集":
        second = narrow + second
    elif gold == "后者是前者的语义父集":
        first = narrow + first
    elif gold == "语义无直接关联":
        second = rng.choice(ERRANDS)
    prompt = rng.choice(("后一个搜索与前一个是什么关系？", "比较两个搜索词的含义："))
    return _pair(rng, prompt, (first, second), (gold, _SUBSET))


def title_match(rng: Random) -> Draft:
    """KUAKE-QTR: how well does a page's title match a search?"""
    gold = rng.choice(_MATCH)
    disease, way = rng.choice(DISEASES).name, rng.choice(tuple(_WAYS))
    first, second = _two_ways(rng, disease, way)
    if gold == "部分匹配":
        second = f"{second}和{_ask(rng, disease, _other_way(rng, way))}"
    elif gold == "很少匹配有一些参考价值":
        second = f"{disease}患者的日记"
    elif gold == "完全不匹配或者没有参考价值":
        second = rng.choice(ERRANDS)
    prompt = rng.choice(("标题与搜索有多匹配？", "判断后句对前句的匹配程度："))
    return _pair(rng, prompt, (first, second), (gold, _MATCH))


def _pair(
    rng: Random, prompt: str, pair: tuple[str, str], answer: tuple[str, tuple[str, ...]]
) -> Draft:
    gold, labels = answer
    text = f"“{pair[0]}”，“{pair[1]}”。"
    return Draft(question(rng, prompt, text, f"选项：{listed(labels)}"), gold, list(labels))


def _ask(rng: Random, disease: str, way: str) -> str:
    return rng.choice(_WAYS[way]).format(d=disease)


def _two_ways(rng: Random, disease: str, way: str) -> tuple[str, str]:
    first, second = rng.sample(_WAYS[way], 2)
    return first.format(d=disease), second.format(d=disease)


def _other_way(rng: Random, way: str) -> str:
    return rng.choice([other for other in _WAYS if other != way])


def _reply(rng: Random, disease: Disease, way: str) -> str:
    return _REPLIES[way].format(**disease.words, s=rng.choice(disease.symptoms))
