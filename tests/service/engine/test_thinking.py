"""A text divided into thought and answer: the same however it is cut into pieces."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine.thinking import marks as served
from service.engine.thinking.marks import Division, Parts, Phase, Thinking, ThoughtCounter
from service.engine.thinking.parser import ThoughtParser
from service.model_directory import thoughts
from service.model_directory.thoughts import MARKS
from tests.thinking import MECHANISMS, thinking_tokenizer
from training.rendering import thinking as trained

THINK = MARKS[0]
PIECES = ["<think>", "</think>", "<", "</thi", "nk>", "\n", "\n\n", "想", "a", " "]
PHASES = [Phase.BEFORE, Phase.OPENED, Phase.CLOSED]


@pytest.mark.parametrize(
    ("text", "phase", "thought", "answer", "unfinished"),
    [
        ("<think>\n想\n\n再想\n</think>\n\n好\n", Phase.BEFORE, "想\n\n再想", "好\n", False),
        ("想</thin k></think>好", Phase.OPENED, "想</thin k>", "好", False),
        ("好 <think>", Phase.BEFORE, "", "好 <think>", False),
        ("\n<think>想", Phase.BEFORE, "想", "", True),
        ("\n好", Phase.CLOSED, "", "好", False),
        ("想\n</thi", Phase.OPENED, "想\n</thi", "", True),
        ("<thi", Phase.BEFORE, "", "<thi", False),
        ("", Phase.OPENED, "", "", True),
        ("</think>\n\n好", Phase.OPENED, "", "好", False),
    ],
)
def test_a_whole_text(text: str, phase: Phase, thought: str, answer: str, unfinished: bool) -> None:
    assert Division(THINK, phase).split(text) == (Parts(thought, answer), unfinished)


@given(st.lists(st.sampled_from(PIECES)), st.sampled_from(PHASES), st.lists(st.integers(1, 4)))
def test_pieces_give_what_the_whole_gives(pieces: list[str], phase: Phase, cuts: list[int]) -> None:
    text = "".join(pieces)
    division = Division(THINK, phase)
    splitter, parts, rest = division.splitter(), Parts(), text
    for cut in [*cuts, len(text)]:
        parts += splitter.feed(rest[:cut])
        rest = rest[cut:]
    parts += splitter.finish()
    assert (parts, splitter.in_thought) == division.split(text)


def test_service_and_training_look_for_the_same() -> None:
    assert thoughts.MARKS == trained.MARKS
    assert served.SWITCHES == trained.SWITCHES


@pytest.mark.parametrize("name", MECHANISMS)
def test_a_template_s_own_mechanism_is_found(name: str) -> None:
    """As published, before training settles its default."""
    mechanism, tokenizer = MECHANISMS[name], thinking_tokenizer(name)

    def render(**arguments: object) -> str:
        question = [{"role": "user", "content": "感冒"}]
        text: str = tokenizer.apply_chat_template(
            question, tokenize=False, add_generation_prompt=True, **arguments
        )
        return text

    thinking = Thinking.of(tokenizer.chat_template, render)
    if not mechanism.switches:
        assert not thinking.exists
        return
    assert thinking.on_by_default != mechanism.default_off
    assert thinking.opening == mechanism.opened_by_model
    on = render(**thinking.arguments(on=True)) + thinking.opening
    assert served.phase_behind(on, thinking.marks) is Phase.OPENED


@pytest.mark.parametrize("as_token", [True, False])
@pytest.mark.parametrize(
    ("text", "phase", "thought"),
    [
        ("想一想</think>好", Phase.OPENED, "想一想</think>"),
        ("<think>想</think>好</think>", Phase.BEFORE, "<think>想</think>"),
        ("好</think>", Phase.BEFORE, ""),
        ("好", Phase.CLOSED, ""),
        ("想</thi", Phase.OPENED, "想</thi"),
        ("<think>想", Phase.BEFORE, "<think>想"),
        ("🤒</think>", Phase.OPENED, "🤒</think>"),
    ],
)
def test_tokens_of_a_thought_are_counted_as_it_grows(
    as_token: bool, text: str, phase: Phase, thought: str
) -> None:
    tokenizer = thinking_tokenizer("qwen3" if as_token else "hunyuan")
    ids = tokenizer.encode(text)
    expected = len(tokenizer.encode(thought))
    division = Division(THINK, phase)
    assert division.count_thought(tokenizer, ids) == expected
    counter = ThoughtCounter(division, tokenizer)
    counts = [counter.count(ids[:length]) for length in range(len(ids) + 1)]
    assert counts[-1] == expected
    assert counts == [division.count_thought(tokenizer, ids[:n]) for n in range(len(ids) + 1)]
    assert counter.count(tokenizer.encode("别的")) in (0, len(tokenizer.encode("别的")))


@pytest.mark.parametrize("gap", range(20, 44))
def test_the_engine_sees_a_closing_mark_however_far_the_one_before_is(gap: int) -> None:
    tokenizer = thinking_tokenizer("glm4.5")
    parser = ThoughtParser(tokenizer)
    [close] = tokenizer.encode("</think>")
    [word] = tokenizer.encode("a")
    ids = [word] * 50 + [close] + [word] * gap + [close]
    assert parser.is_reasoning_end_streaming(ids, [close])
    assert not parser.is_reasoning_end_streaming([*ids, word], [word])


def test_a_continued_turn_is_answer_in_every_choice() -> None:
    tokenizer = thinking_tokenizer("r1-distill")
    continued = {"add_generation_prompt": False, "continue_final_message": True}
    parser = ThoughtParser(tokenizer, chat_template_kwargs=continued)
    assert parser.extract_reasoning("多喝水", None) == (None, "多喝水")
    assert ThoughtParser(tokenizer).extract_reasoning("想</think>好", None) == ("想", "好")
