"""How a chat template has its model think, and what of that is prompt.

Families differ in where the block of the thought stands, in the name of the switch and in its
default. All of it is found by rendering: no list of models is kept.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from training.data.settings import Mode
from training.errors import TrainingError

MARKS = (
    ("<think>", "</think>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
)
"""What stands around a thought; the service looks for the same ones."""
SWITCHES: dict[str, tuple[object, object]] = {
    "enable_thinking": (False, True),
    "thinking": (False, True),
    "reasoning_effort": ("no_think", "high"),
}
"""Arguments of templates, with their values for off and on."""
CHANNELS = "<|channel|>"
Probe: TypeAlias = Callable[..., str]
"""Renders one question, up to where the answer begins, with arguments of the template."""


@dataclass(frozen=True)
class Thinking:
    """What a template writes around thoughts, and the argument that switches them."""

    marks: tuple[str, str]
    opening: str
    """From the assistant's header to the thought, such as "<think>" and a line break."""
    closing: str
    """From the thought to the answer."""
    switch: str | None = None

    def arguments(self, *, on: bool) -> dict[str, object]:
        """The template's arguments for an answer with or without a thought."""
        return {self.switch: SWITCHES[self.switch][on]} if self.switch else {}

    def tail(self, prompt: str) -> re.Match[str] | None:
        """The block that ends a prompt, open or closed; None where it ends in none."""
        opened, closed = map(re.escape, self.marks)
        return re.search(rf"(?:{opened}\s*(?:{closed}\s*)?|{closed}\s*)\Z", prompt)

    def header(self, prompt: str) -> str:
        """A prompt without the block that ends it."""
        tail = self.tail(prompt)
        return prompt[: tail.start()] if tail else prompt

    def within(self, text: str) -> bool:
        """Whether a text has a mark."""
        return any(mark in text for mark in self.marks)

    def is_open(self, prompt: str) -> bool:
        """Whether a prompt ends inside a thought that has just begun."""
        tail = self.tail(prompt)
        return tail is not None and self.marks[1] not in tail.group()

    def split(self, content: str) -> tuple[str, str]:
        """The thought that an answer's text begins with, and the rest; no thought: ""."""
        opened, closed = self.marks
        before, mark, after = content.partition(closed)
        if not mark or not before.lstrip().startswith(opened):
            return "", content
        return before.lstrip().removeprefix(opened).strip(), after.lstrip("\n")

    def without_block(self, turn: str) -> str:
        """What a template wrote of an answer, without an empty thought at its beginning."""
        opened, closed = map(re.escape, self.marks)
        return re.sub(rf"\A\s*(?:{opened})?\s*{closed}\s*", "", turn)


def find_thinking(template: str, probe: Probe) -> Thinking | None:
    """How `template` has its model think; None where it knows no thoughts.

    Raises TrainingError for templates whose answers have channels.
    """
    if CHANNELS in template:
        raise TrainingError(
            f"the chat template writes channels ({CHANNELS}), as gpt-oss does: what would be served"
            " is not the answer alone; name another template with template=…"
        )
    marks = next((pair for pair in MARKS if pair[1] in template), None)
    return _found(marks, find_switch(template, probe), probe) if marks else None


def _found(marks: tuple[str, str], switch: str | None, probe: Probe) -> Thinking:
    plain = Thinking(marks, *marks, switch)
    off, on = (probe(**plain.arguments(on=on)) for on in (False, True))
    before, behind, after = _blanks(plain, off, on)
    return Thinking(marks, marks[0] + before, behind + marks[1] + after, switch)


def find_switch(template: str, probe: Probe) -> str | None:
    """The argument that changes what is rendered."""
    known = (name for name in SWITCHES if name in template)
    return next((name for name in known if _switches(name, probe)), None)


def _switches(name: str, probe: Probe) -> bool:
    """Whether the argument changes what is rendered; some templates refuse values of others."""
    try:
        off, on = (probe(**{name: value}) for value in SWITCHES[name])
    except TrainingError:
        return False
    return off != on


def _blanks(thinking: Thinking, off: str, on: str) -> tuple[str, str, str]:
    """White space before a thought, behind it, and behind its closing mark.

    An empty thought in the prompt tells all of it, an open one the first, a mark alone the last.
    """
    opened, closed = map(re.escape, thinking.marks)
    if block := re.search(rf"{opened}(\s*){closed}(\s*)\Z", off):
        half = (len(block[1]) + 1) // 2
        return block[1][:half], block[1][half:], block[2]
    begun = re.search(rf"{opened}(\s*)\Z", on)
    alone = re.search(rf"{closed}(\s*)\Z", off)
    lead = begun[1] if begun else "\n"
    return lead, lead, alone[1] if alone else lead * 2


def settle(template: str, thinking: Thinking | None, mode: Mode, probe: Probe, lead: str) -> str:
    """The template whose default is `mode`, for every program that renders it.

    One that always opens a thought is given a switch; requests may still set it. `lead` is the
    white space that the template writes between an empty block and the answer (GLM-4.5's line
    break): as prompt it is no part of the answer.
    """
    if thinking is None:
        # named in a comment, so that the service tells a thought from the answer
        return template + f"{{#- thoughts: {' '.join(MARKS[0])} -#}}" * (mode == "data")
    if thinking.switch:
        return _defaulting(_ending(template, thinking.switch, lead), thinking.switch, mode)
    if not thinking.is_open(probe()):
        return template
    switch = next(iter(SWITCHES))
    return _defaulting(_ending(template, switch, thinking.closing), switch, mode)


def _defaulting(template: str, switch: str, mode: Mode) -> str:
    default = json.dumps(SWITCHES[switch][mode != "off"])
    return (
        f"{{%- if {switch} is not defined %}}{{%- set {switch} = {default} %}}{{%- endif +%}}"
        f"{template}"
    )


def _ending(template: str, switch: str, text: str) -> str:
    """The template whose prompt without thoughts ends in `text`."""
    if not text:
        return template
    return template.removesuffix("\n") + (
        f"{{%+ if add_generation_prompt and {switch} == {json.dumps(SWITCHES[switch][0])} %}}"
        f"{{{{ {json.dumps(text)} }}}}{{% endif %}}"
    )
