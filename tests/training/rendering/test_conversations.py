"""Conversations of many turns: ids as the template gives them, loss on the answers alone."""

from typing import Any

import pytest

from tests.families import FAMILIES, family_tokenizer
from tests.thinking import MECHANISMS, thinking_tokenizer
from training.data.collate import IGNORED, EncodedSample, features
from training.data.messages import conversation
from training.errors import TrainingError
from training.rendering.conversation import Rendering

SYSTEM = {"role": "system", "content": "你是医生。"}
TURNS = [
    {"role": "user", "content": "感冒了怎么办？"},
    {"role": "assistant", "content": "多喝水。"},
    {"role": "user", "content": "the capital"},
    {"role": "assistant", "content": "of France"},
    {"role": "user", "content": "病人 咳嗽"},
    {"role": "assistant", "content": "先想一想"},
]
ANSWERS = ["多喝水。", "of France", "先想一想"]
WITHOUT_SYSTEM = {"gemma2", "gemma3", "mistral"}


def samples(tokenizer: Any, messages: list[Any], learn: str, **settings: Any) -> Any:
    rendering = Rendering.of(tokenizer, **settings)
    return rendering.encode(conversation(messages, "x:1", learn), 1000)


def marked(tokenizer: Any, sample: EncodedSample) -> str:
    """The text with what is learned in ⟦ ⟧."""
    return "".join(
        f"{tokenizer.decode(given)}⟦{tokenizer.decode(learned)}⟧" for given, learned in sample.turns
    )


def learned_text(tokenizer: Any, sample: EncodedSample) -> list[str]:
    return [
        tokenizer.decode(learned, skip_special_tokens=True).strip() for _, learned in sample.turns
    ]


def whole(tokenizer: Any, messages: list[Any]) -> list[int]:
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
    return ids


@pytest.mark.parametrize("turns", [2, 4, 6])
@pytest.mark.parametrize(
    ("family", "system"),
    [
        *((family, False) for family in FAMILIES),
        *((family, True) for family in FAMILIES if family not in WITHOUT_SYSTEM),
    ],
)
def test_ids_are_those_of_the_template_and_answers_are_learned(
    family: str, system: bool, turns: int, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = family_tokenizer(family)
    messages = [*([SYSTEM] if system else []), *TURNS[:turns]]
    for learn, answers in (
        ("last", ANSWERS[turns // 2 - 1 : turns // 2]),
        ("all", ANSWERS[: turns // 2]),
    ):
        made = samples(tokenizer, messages, learn)
        print("\n".join(marked(tokenizer, sample) for sample in made))
        assert [text for sample in made for text in learned_text(tokenizer, sample)] == answers
        ids = whole(tokenizer, messages)
        last = made[-1].ids
        assert last[: len(ids)] == ids
        assert last[len(ids) :] in ([], [tokenizer.eos_token_id])
        for sample in made:
            row = features(sample)
            kept = zip(row["input_ids"], row["labels"], strict=True)
            assert all(label in (IGNORED, token) for token, label in kept)
    assert "⟦" in capsys.readouterr().out


@pytest.mark.parametrize("name", MECHANISMS)
def test_each_answer_is_learned_behind_the_prompt_of_serving(name: str) -> None:
    """In one sequence where the template keeps earlier turns as they were, else in several."""
    tokenizer = thinking_tokenizer(name)
    made = samples(tokenizer, TURNS, "all")
    answers = [text for sample in made for text in learned_text(tokenizer, sample)]
    assert answers == ANSWERS
    prompts = []
    for sample in made:
        ids: list[int] = []
        for given, learned in sample.turns:
            prompts.append([*ids, *given])
            ids += [*given, *learned]
    for place, prompt in zip((1, 3, 5), prompts, strict=True):
        text = tokenizer.apply_chat_template(
            TURNS[:place], tokenize=False, add_generation_prompt=True
        )
        assert prompt == tokenizer.encode(text, add_special_tokens=False)


def test_earlier_thoughts_that_a_template_strips_make_a_sample_a_turn() -> None:
    tokenizer = thinking_tokenizer("qwen3")
    thoughts = [
        {**turn, "reasoning_content": "想"} if turn["role"] == "assistant" else turn
        for turn in TURNS[:4]
    ]
    made = samples(tokenizer, thoughts, "all", mode="data")
    assert [marked(tokenizer, sample) for sample in made] == [
        "<|im_start|>user\n感冒了怎么办？<|im_end|>\n<|im_start|>assistant\n"
        "⟦<think>\n想\n</think>\n\n多喝水。<|im_end|>\n⟧",
        "<|im_start|>user\n感冒了怎么办？<|im_end|>\n<|im_start|>assistant\n多喝水。<|im_end|>\n"
        "<|im_start|>user\nthe capital<|im_end|>\n<|im_start|>assistant\n"
        "⟦<think>\n想\n</think>\n\nof France<|im_end|>\n⟧",
    ]


@pytest.mark.parametrize("key", ["weight", "loss", "train"])
def test_an_answer_can_be_left_out_of_the_loss(key: str) -> None:
    tokenizer = family_tokenizer("llama3")
    messages: list[dict[str, Any]] = [dict(turn) for turn in TURNS]
    messages[3][key] = 0 if key == "weight" else False
    [sample] = samples(tokenizer, messages, "all")
    assert learned_text(tokenizer, sample) == [ANSWERS[0], ANSWERS[2]]


CALL = {"type": "function", "function": {"name": "look_up", "arguments": {"x": 1}}}
CALLED = {"role": "assistant", "content": "", "tool_calls": [CALL]}
TOOLS = [{"type": "function", "function": {"name": "look_up", "parameters": {}}}]
RESULT = {"role": "tool", "content": '{"结果": "好"}'}


@pytest.mark.parametrize(
    ("messages", "tools", "lost"),
    [
        ([TURNS[0], CALLED], None, "calls of tools"),
        ([*TURNS[:2], {"role": "user", "content": "再"}, TURNS[3]], TOOLS, "tools"),
        ([SYSTEM, *TURNS[:2]], None, "system texts"),
        ([TURNS[0], CALLED, RESULT, TURNS[1]], None, "tool texts"),
    ],
)
def test_what_a_template_leaves_out_is_refused(messages: list[Any], tools: Any, lost: str) -> None:
    """Training would go on without it: with an empty answer, or without the question's ground."""
    tokenizer = family_tokenizer("llama3")
    tokenizer.chat_template = (
        "{% for m in messages if m.role in ('user', 'assistant') %}<{{ m.role }}>{{ m.content }}"
        "<|eot_id|>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    rendering = Rendering.of(tokenizer)
    with pytest.raises(TrainingError, match=f"x:1: the chat template leaves {lost} out"):
        rendering.encode(conversation(messages, "x:1", "last", tools), 1000)
    assert rendering.encode(conversation(TURNS, "x:1", "last"), 1000)


def test_texts_of_tools_may_be_written_as_json() -> None:
    tokenizer = family_tokenizer("llama3")
    tokenizer.chat_template = (
        "{% for m in messages %}<{{ m.role }}>{% if m.tool_calls %}{{ m.tool_calls | tojson }}"
        "{% else %}{{ m.content | tojson }}{% endif %}<|eot_id|>{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    row = conversation([TURNS[0], CALLED, RESULT, TURNS[1]], "x:1", "all")
    assert Rendering.of(tokenizer).encode(row, 1000)


@pytest.mark.parametrize("limit", [60, 100, 200])
@pytest.mark.parametrize("family", ["llama3", "qwen3"])
def test_of_many_rounds_as_few_as_need_be_are_left_out(family: str, limit: int) -> None:
    tokenizer = family_tokenizer(family)
    rounds = [message for number in range(30) for message in _round(number)]
    row = conversation(rounds, "x:1", "last")
    rendering = Rendering.of(tokenizer)
    [sample] = rendering.encode(row, limit)
    assert len(sample.ids) <= limit
    kept = [n for n in range(30) if f"问{n}。" in tokenizer.decode(sample.prompt_ids)]
    assert kept == [*range(kept[0], 30)]
    longer = rounds[2 * (kept[0] - 1) :]
    [whole_one] = rendering.encode(conversation(longer, "x:1", "last"), 5000)
    assert len(whole_one.ids) > limit


def _round(number: int) -> list[dict[str, str]]:
    said = {"user": f"问{number}。", "assistant": "答"}
    return [{"role": role, "content": text} for role, text in said.items()]
