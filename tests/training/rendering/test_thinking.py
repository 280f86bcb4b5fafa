"""Thoughts: what serving renders by default is what training continued, for every mechanism."""

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from service.generation.chat import ChatTemplate
from service.model_directory.thoughts import marks_of, refuse_special_marks
from tests.thinking import MARKS, MECHANISMS, thinking_tokenizer
from training.data.collate import EncodedSample, features
from training.data.messages import Row, conversation
from training.errors import TrainingError
from training.rendering.conversation import Rendering
from training.rendering.tokenizer import load_tokenizer

QUESTION: dict[str, Any] = {"role": "user", "content": "感冒"}
ANSWER: dict[str, Any] = {"role": "assistant", "content": "多喝水"}
THOUGHT = "先想一想：\n病人咳嗽。"
MODES = ["off", "on", "data", None]
SPELLINGS: dict[str, dict[str, Any]] = {
    "member": {**ANSWER, "reasoning_content": THOUGHT},
    "other name": {**ANSWER, "reasoning": THOUGHT},
    "in the text": {**ANSWER, "content": f"<think>\n{THOUGHT}\n</think>\n\n多喝水"},
    "in the text, close": {**ANSWER, "content": f"<think>{THOUGHT}</think>多喝水"},
}


def row(*messages: dict[str, Any], learn: str = "last") -> Row:
    return conversation([*messages], "train.json:1", learn)


def encoded(tokenizer: Any, mode: Any, *messages: dict[str, Any], **settings: Any) -> EncodedSample:
    [sample] = Rendering.of(tokenizer, mode, **settings).encode(row(*messages), 500)
    return sample


def served(tokenizer: Any, folder: Path, *messages: dict[str, Any], **arguments: Any) -> list[int]:
    """Ids as another program renders them from the directory, by its default."""
    tokenizer.save_pretrained(folder)
    again = PreTrainedTokenizerFast.from_pretrained(folder)
    text = again.apply_chat_template(
        [*messages], tokenize=False, add_generation_prompt=True, **arguments
    )
    ids: list[int] = again.encode(text, add_special_tokens=False)
    return ids


def behind_header(tokenizer: Any, ids: list[int]) -> str:
    text = str(tokenizer.decode(ids))
    headers = ("<|im_start|>assistant\n", "<|assistant|>", "<｜Assistant｜>", "<|extra_0|>")
    return next(text.rpartition(header)[2] for header in headers if header in text)


@pytest.mark.parametrize("name", MECHANISMS)
def test_without_thoughts_the_empty_block_is_prompt(name: str, tmp_path: Path) -> None:
    mechanism, tokenizer = MECHANISMS[name], thinking_tokenizer(name)
    for mode in (None, "off"):
        sample = encoded(tokenizer, mode, QUESTION, ANSWER)
        assert behind_header(tokenizer, sample.prompt_ids) == mechanism.off
        assert "think" not in tokenizer.decode(sample.answer_ids)
        assert tokenizer.decode(sample.answer_ids, skip_special_tokens=True).strip() == "多喝水"
        assert served(tokenizer, tmp_path / "served", QUESTION) == sample.prompt_ids


@pytest.mark.parametrize("name", [name for name in MECHANISMS if "instruct" not in name])
def test_with_thinking_on_the_model_learns_to_answer_at_once(name: str, tmp_path: Path) -> None:
    mechanism, tokenizer = MECHANISMS[name], thinking_tokenizer(name)
    sample = encoded(tokenizer, "on", QUESTION, ANSWER)
    assert behind_header(tokenizer, sample.prompt_ids) == mechanism.on
    assert tokenizer.decode(sample.answer_ids).rpartition("</think>")[2].strip("\n") in (
        *("多喝水</s>", "多喝水<|im_end|>"),
    )
    assert served(tokenizer, tmp_path / "served", QUESTION) == sample.prompt_ids


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("name", MECHANISMS)
def test_a_thought_in_the_row_is_learned_with_its_marks(
    name: str, spelling: str, tmp_path: Path
) -> None:
    mechanism, tokenizer = MECHANISMS[name], thinking_tokenizer(name)
    sample = encoded(tokenizer, "data", QUESTION, SPELLINGS[spelling])
    assert behind_header(tokenizer, sample.prompt_ids) == mechanism.on
    text = tokenizer.decode(sample.answer_ids)
    assert text.startswith(f"{mechanism.opened_by_model}{THOUGHT}{mechanism.closing}多喝水")
    assert served(tokenizer, tmp_path / "served", QUESTION) == sample.prompt_ids
    without = encoded(thinking_tokenizer(name), "data", QUESTION, ANSWER)
    assert behind_header(tokenizer, without.prompt_ids) == mechanism.off


@pytest.mark.parametrize("name", MECHANISMS)
def test_masked_thoughts_are_given_and_not_learned(name: str) -> None:
    mechanism, tokenizer = MECHANISMS[name], thinking_tokenizer(name)
    messages = (QUESTION, SPELLINGS["member"])
    learned = encoded(tokenizer, "data", *messages)
    masked = encoded(thinking_tokenizer(name), "data", *messages, train_thoughts=False)
    assert tokenizer.decode(masked.ids) == tokenizer.decode(learned.ids)
    labels = [label for label in features(masked)["labels"] if label >= 0]
    assert tokenizer.decode(labels).startswith("多喝水")
    assert tokenizer.decode(masked.prompt_ids).endswith(THOUGHT + mechanism.closing)


@pytest.mark.parametrize("name", MECHANISMS)
def test_thoughts_are_left_out_or_refused_where_they_are_not_wanted(name: str) -> None:
    tokenizer = thinking_tokenizer(name)
    without = encoded(tokenizer, "off", QUESTION, ANSWER)
    for message in SPELLINGS.values():
        assert encoded(thinking_tokenizer(name), "off", QUESTION, message) == without
        with pytest.raises(TrainingError, match=r"train.json:1: an answer has a thought: thinking"):
            encoded(thinking_tokenizer(name), None, QUESTION, message)


@pytest.mark.parametrize("name", MECHANISMS)
@pytest.mark.parametrize("content", ["多</think>喝水", "多<think>喝</think>水", "a<think>b"])
def test_marks_elsewhere_in_an_answer_are_refused(name: str, content: str) -> None:
    with pytest.raises(TrainingError, match="once, before the answer"):
        encoded(thinking_tokenizer(name), "data", QUESTION, {**ANSWER, "content": content})


@pytest.mark.parametrize("name", MECHANISMS)
def test_the_default_can_be_switched_by_a_request(name: str, tmp_path: Path) -> None:
    """Where the published template has a switch, and where ours was added."""
    mechanism, tokenizer = MECHANISMS[name], thinking_tokenizer(name)
    rendering = Rendering.of(tokenizer, "off")
    if not mechanism.switches:
        assert rendering.template.thinking is None
        return
    assert rendering.template.thinking is not None
    arguments = rendering.template.thinking.arguments(on=True)
    ids = served(tokenizer, tmp_path / "served", QUESTION, **arguments)
    assert behind_header(tokenizer, ids) == mechanism.on


def test_templates_with_channels_are_refused() -> None:
    tokenizer = thinking_tokenizer("qwen3")
    tokenizer.chat_template = "<|start|>assistant<|channel|>final<|message|>"
    with pytest.raises(TrainingError, match="gpt-oss"):
        Rendering.of(tokenizer)


def test_a_template_without_thoughts_cannot_think() -> None:
    with pytest.raises(TrainingError, match="thinking=on: the chat template has none"):
        Rendering.of(thinking_tokenizer("qwen3-2507-instruct"), "on")


CHANNEL = (
    "{% if enable_thinking %}<|think|>{% endif %}{% for m in messages %}{{ m.role ~ ':' }}"
    "{% if m.reasoning_content %}{{ '<|channel>thought' ~ m.reasoning_content ~ '<channel|>' }}"
    "{% endif %}{{ m.content }}<|im_end|>{% endfor %}{% if add_generation_prompt %}assistant:"
    "{% endif %}"
)


@pytest.mark.parametrize("mode", MODES)
def test_thoughts_with_other_marks_are_refused(mode: Any) -> None:
    """As Gemma 4's: what would be served is not what would be trained."""
    tokenizer = thinking_tokenizer("qwen3")
    tokenizer.chat_template = CHANNEL
    if mode in ("on", "data"):
        with pytest.raises(TrainingError, match="switches thoughts by enable_thinking, but marks"):
            Rendering.of(tokenizer, mode)
    else:
        [sample] = Rendering.of(tokenizer, mode).encode(row(QUESTION, ANSWER), 100)
        assert tokenizer.decode(sample.ids) == "user:感冒<|im_end|>assistant:多喝水<|im_end|>"


def test_a_template_that_leaves_texts_out_is_refused() -> None:
    """As those of models for images do with a content that is no list of parts."""
    tokenizer = thinking_tokenizer("qwen3")
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role }}{% for part in m.content %}{{ part.text }}{% endfor %}"
        "{% endfor %}"
    )
    with pytest.raises(TrainingError, match="leaves the text of messages out"):
        Rendering.of(tokenizer)


@pytest.mark.parametrize("as_extra", [False, True])
def test_marks_that_are_special_tokens_become_ordinary_ones(as_extra: bool, tmp_path: Path) -> None:
    """Of what a model writes, special tokens are left out: its thought would seem the answer."""
    tokenizer = thinking_tokenizer("qwen3")
    if as_extra:
        tokenizer.add_special_tokens({"extra_special_tokens": MARKS})
    else:
        tokenizer.add_tokens([AddedToken(mark, special=True, normalized=False) for mark in MARKS])
    text = "<think>想</think>好"
    ids = tokenizer.encode(text)
    tokenizer.save_pretrained(tmp_path / "base")
    with pytest.raises(ValueError, match="is a special token"):
        refuse_special_marks(tmp_path / "base")
    loaded = load_tokenizer(tmp_path / "base", None)
    Rendering.of(loaded, "data")
    loaded.save_pretrained(tmp_path / "adapter")
    refuse_special_marks(tmp_path / "adapter")
    saved = AutoTokenizer.from_pretrained(tmp_path / "adapter")
    assert saved.encode(text) == ids
    assert saved.decode(ids, skip_special_tokens=True) == text
    assert not {*MARKS} & {*saved.all_special_tokens}


def test_of_several_templates_the_default_is_rendered(tmp_path: Path) -> None:
    tokenizer = thinking_tokenizer("qwen3")
    tokenizer.save_pretrained(tmp_path)
    rendered = Rendering.of(tokenizer, "off").encode(row(QUESTION, ANSWER), 100)
    (tmp_path / "chat_template.jinja").rename(tmp_path / "default")
    several = [
        {"name": "default", "template": (tmp_path / "default").read_text("utf-8")},
        {"name": "tool_use", "template": "{{ messages }}"},
    ]
    config = json.loads((tmp_path / "tokenizer_config.json").read_text("utf-8"))
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({**config, "chat_template": several})
    )
    assert marks_of(tmp_path) == ("<think>", "</think>")
    loaded = load_tokenizer(tmp_path, None)
    assert Rendering.of(loaded, "off").encode(row(QUESTION, ANSWER), 100) == rendered


@pytest.mark.parametrize("marks", ["<think> </think>", "[THINK] [/THINK]", "<thought> </thought>"])
@pytest.mark.parametrize("name", ["qwen3", "r1-distill", "qwen3-2507-instruct"])
def test_thoughts_in_marks_of_another_family_are_thoughts(name: str, marks: str) -> None:
    opened, closed = marks.split()
    inline = {**ANSWER, "content": f"{opened}\n{THOUGHT}{closed}\n\n多喝水"}
    member = {**ANSWER, "reasoning_content": f"\n{THOUGHT}\n\n"}
    for mode in ("off", "data"):
        rendering = Rendering.of(thinking_tokenizer(name), mode)
        expected = rendering.encode(row(QUESTION, {**ANSWER, "reasoning_content": THOUGHT}), 500)
        assert rendering.encode(row(QUESTION, inline), 500) == expected
        assert rendering.encode(row(QUESTION, member), 500) == expected


def test_blanks_are_no_thought() -> None:
    rendering = Rendering.of(thinking_tokenizer("qwen3"))
    blank = {**ANSWER, "reasoning_content": "\n\n"}
    assert rendering.encode(row(QUESTION, blank), 500) == rendering.encode(
        row(QUESTION, ANSWER), 500
    )


@pytest.mark.parametrize("mode", ["off", "data"])
@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ({"content": "<think>想</think>"}, "no answer behind it"),
        ({"content": "好", "reasoning_content": "想</think>再想"}, "stand around a thought"),
    ],
)
def test_a_thought_that_is_none_is_refused(mode: Any, answer: dict[str, str], told: str) -> None:
    rendering = Rendering.of(thinking_tokenizer("qwen3"), mode)
    with pytest.raises(TrainingError, match=told):
        rendering.encode(row(QUESTION, {**ANSWER, **answer}), 500)


def test_a_template_that_refuses_a_switch_s_values_has_another_one() -> None:
    tokenizer = thinking_tokenizer("qwen3")
    tokenizer.chat_template = (
        "{% if reasoning_effort is defined and reasoning_effort not in ('none', 'low') %}"
        "{{ raise_exception('no such effort') }}{% endif %}" + tokenizer.chat_template
    )
    thinking = Rendering.of(tokenizer, "off").template.thinking
    assert thinking is not None
    assert thinking.switch == "enable_thinking"
    assert ChatTemplate(tokenizer).thinking.switch == "enable_thinking"
