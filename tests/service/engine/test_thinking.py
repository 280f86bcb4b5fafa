"""A text divided into thought and answer: the same however it is cut into pieces."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine.thinking import marks as served
from service.engine.thinking.marks import Division, Parts, Phase, Thinking
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
