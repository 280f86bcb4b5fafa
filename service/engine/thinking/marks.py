"""How a chat template has its model think, and a text divided into thought and answer."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Any, Self, TypeAlias

from jinja2 import TemplateError
from tokenizers.decoders import DecodeStream

from service.engine.tokenizers import Pieces
from service.model_directory.thoughts import marks_in

SWITCHES: dict[str, tuple[object, object]] = {
    "enable_thinking": (False, True),
    "thinking": (False, True),
    "reasoning_effort": ("no_think", "high"),
}
"""Arguments of templates, with their values for off and on."""
TAUGHT = "{#- thoughts: "
"""Training's note in a template that says nothing of thoughts itself."""
Render: TypeAlias = Callable[..., str]
"""One question as text, up to where the answer begins, with arguments of the template."""


class Phase(Enum):
    """Where a text is."""

    BEFORE = "before"
    """Nothing yet: a thought may begin, or the answer."""
    OPENED = "opened"
    """Behind the opening mark."""
    THOUGHT = "thought"
    CLOSED = "closed"
    """Behind the closing mark."""
    ANSWER = "answer"


@dataclass(frozen=True)
class Thinking:
    """The marks of a template's thoughts, and the argument that switches them."""

    marks: tuple[str, str]
    switch: str | None
    on_by_default: bool
    opening: str = ""
    """What makes a prompt with thinking on end inside a thought; "" where it does."""

    @classmethod
    def of(cls, template: str, render: Render) -> "Thinking":
        """As `render` shows it, which may raise what templates raise."""
        marks = marks_in(template)
        if marks is None:
            return NO_THOUGHTS
        switch = _switch(template, render)
        if switch is None:
            taught = f"{marks[0]}\n" if TAUGHT in template else ""
            return cls(marks, None, phase_behind(render(), marks) is not Phase.CLOSED, taught)
        off, on = (render(**{switch: value}) for value in SWITCHES[switch])
        return cls(marks, switch, render() != off, _opening(marks, off, on))

    @property
    def exists(self) -> bool:
        """Whether the template knows thoughts."""
        return self != NO_THOUGHTS

    def can(self, on: bool | None) -> bool:
        """Whether the model can do so, of itself or switched; None: its default."""
        return self.switch is not None or self.is_on(on) == self.on_by_default

    def is_on(self, on: bool | None) -> bool:
        """Whether it thinks; None: by its default."""
        return self.on_by_default if on is None else on

    def arguments(self, *, on: bool | None) -> dict[str, object]:
        """Those of the template; None: its default."""
        if on is None or self.switch is None:
            return {}
        return {self.switch: SWITCHES[self.switch][on]}


NO_THOUGHTS = Thinking(("", ""), None, on_by_default=False)


def template_of(tokenizer: Any) -> str:
    """The chat template that texts are rendered with; "" where there is none."""
    template = tokenizer.chat_template or ""
    return str(template.get("default", "")) if isinstance(template, dict) else str(template)


def phase_behind(prompt: str, marks: tuple[str, str]) -> Phase:
    """Where the text behind a prompt begins."""
    opened, closed = map(re.escape, marks)
    if re.search(rf"{closed}\s*\Z", prompt):
        return Phase.CLOSED
    return Phase.OPENED if re.search(rf"{opened}\s*\Z", prompt) else Phase.BEFORE


def _switch(template: str, render: Render) -> str | None:
    """The argument that changes what is rendered."""
    known = (name for name in SWITCHES if name in template)
    return next((name for name in known if _switches(name, render)), None)


def _switches(name: str, render: Render) -> bool:
    """Whether the argument changes what is rendered; some templates refuse values of others."""
    try:
        off, on = (render(**{name: value}) for value in SWITCHES[name])
    except (TemplateError, TypeError, ValueError):
        return False
    return off != on


def _opening(marks: tuple[str, str], off: str, on: str) -> str:
    """What an empty thought begins with, where the prompt with thinking on has none."""
    if phase_behind(on, marks) is Phase.OPENED:
        return ""
    block = re.search(rf"(\s*){re.escape(marks[0])}(\s*){re.escape(marks[1])}\s*\Z", off)
    if block is None:
        return marks[0]
    lead = block[1].removeprefix(_blank_end(on))
    return lead + marks[0] + block[2][: (len(block[2]) + 1) // 2]


def _blank_end(text: str) -> str:
    return text[len(text.rstrip()) :]


@dataclass(frozen=True)
class Parts:
    """Of a text: what is of the thought, and what of the answer."""

    thought: str = ""
    answer: str = ""

    def __add__(self, other: "Parts") -> "Parts":
        return Parts(self.thought + other.thought, self.answer + other.answer)


class Splitter:
    """Divides a text that comes piece by piece. Line breaks beside the marks belong to neither."""

    def __init__(self, marks: tuple[str, str], phase: Phase) -> None:
        self._opening, self._closing = marks
        self.phase = phase
        self._held = ""
        self._has_closed = False
        self._steps: dict[Phase, Callable[[], Parts]] = {
            Phase.BEFORE: self._before,
            Phase.OPENED: partial(self._behind_mark, Phase.THOUGHT),
            Phase.THOUGHT: self._thought,
            Phase.CLOSED: partial(self._behind_mark, Phase.ANSWER),
            Phase.ANSWER: self._answer,
        }

    @property
    def has_closed(self) -> bool:
        """Whether a closing mark has come."""
        return self._has_closed

    @property
    def in_thought(self) -> bool:
        """Whether the thought has not ended."""
        return self.phase in (Phase.OPENED, Phase.THOUGHT)

    def feed(self, text: str) -> Parts:
        """What is certain by now."""
        self._held += text
        parts = Parts()
        while True:
            phase = self.phase
            parts += self._steps[phase]()
            if self.phase is phase:
                return parts

    def finish(self, *, cut: bool = False) -> Parts:
        """The rest, at the end of the text; `cut`: more would have followed."""
        held, self._held = self._held, ""
        if cut and self.phase is Phase.BEFORE and held:  # within the opening mark, or before it
            self.phase = Phase.OPENED
        rest = {Phase.THOUGHT: Parts(thought=held.rstrip("\n")), Phase.BEFORE: Parts(answer=held)}
        return rest.get(self.phase, Parts())

    def _before(self) -> Parts:
        text = self._held.lstrip()
        if text.startswith(self._opening):
            self._held, self.phase = text.removeprefix(self._opening), Phase.OPENED
        elif not self._opening.startswith(text):
            self.phase = Phase.ANSWER
        return Parts()

    def _behind_mark(self, following: Phase) -> Parts:
        self._held = self._held.lstrip("\n")
        if self._held:
            self.phase = following
        return Parts()

    def _thought(self) -> Parts:
        thought, mark, after = self._held.partition(self._closing)
        if mark:
            self._held, self.phase, self._has_closed = after, Phase.CLOSED, True
            return Parts(thought=thought.rstrip("\n"))
        sure = self._held[: len(self._held) - self._unsure()].rstrip("\n")
        self._held = self._held[len(sure) :]
        return Parts(thought=sure)

    def _unsure(self) -> int:
        """How many characters at the end may belong to the closing mark."""
        lengths = range(min(len(self._held), len(self._closing) - 1), 0, -1)
        return next((n for n in lengths if self._held.endswith(self._closing[:n])), 0)

    def _answer(self) -> Parts:
        held, self._held = self._held, ""
        return Parts(answer=held)


@dataclass(frozen=True)
class Division:
    """How outputs divide into thought and answer."""

    marks: tuple[str, str]
    phase: Phase
    """Where they begin."""

    @classmethod
    def behind(cls, prompt: str, marks: tuple[str, str]) -> Self:
        """Of what follows a prompt."""
        return cls(marks, phase_behind(prompt, marks))

    def splitter(self) -> Splitter:
        """For one output that comes piece by piece."""
        return Splitter(self.marks, self.phase)

    def split(self, text: str, *, cut: bool = False) -> tuple[Parts, bool]:
        """A whole text, and whether it ended inside its thought; `cut`: more would have come."""
        splitter = self.splitter()
        return splitter.feed(text) + splitter.finish(cut=cut), splitter.in_thought

    def count_thought(self, tokenizer: Any, ids: list[int]) -> int:
        """How many of an output's first tokens are a thought with its marks.

        All of them, where it has not ended.
        """
        return ThoughtCounter(self, tokenizer).count(ids)


class ThoughtCounter:
    """Counts the thought's tokens of an output that may grow; each token is looked at once."""

    def __init__(self, division: Division, tokenizer: Any) -> None:
        self._division, self._backend = division, tokenizer.backend_tokenizer
        self._begin()

    def _begin(self) -> None:
        self._seen: list[int] = []
        self._splitter = self._division.splitter()
        stream = DecodeStream(skip_special_tokens=False)
        self._pieces = Pieces(self._backend, stream, skip_special_tokens=False)
        self._closed_at: int | None = None

    def count(self, ids: list[int]) -> int:
        """Those of the thought with its marks, at the beginning; all while it goes on."""
        if ids[: len(self._seen)] != self._seen:  # another output
            self._begin()
        for token in ids[len(self._seen) :] if self._closed_at is None else ():
            self._seen.append(token)
            self._splitter.feed(self._pieces.step(token))
            if self._splitter.phase in (Phase.CLOSED, Phase.ANSWER):
                self._closed_at = len(self._seen) * self._splitter.has_closed
                break
        return len(ids) * self._splitter.in_thought if self._closed_at is None else self._closed_at
