"""A prompt, what stands around it, and the model's chat template that renders both."""

from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import chain, cycle
from typing import Any

from jinja2 import TemplateError

from service.engine.thinking.marks import (
    NO_THOUGHTS,
    Division,
    Phase,
    Thinking,
    phase_behind,
    template_of,
)
from service.errors import InvalidRequestError


@dataclass(frozen=True)
class Chat:
    """What stands around a prompt that the template renders."""

    system: str | None = None
    history: tuple[tuple[str, str], ...] = ()
    """Earlier rounds, oldest first: question and answer."""
    thinking: bool | None = None
    """None: by the template's default."""
    opens_thought: bool = field(default=False, compare=False)
    """Where thinking is on, the prompt ends inside the thought, whatever the template says."""

    @property
    def texts(self) -> list[str]:
        """All of it."""
        return [self.system or "", *chain(*self.history)]

    @property
    def size(self) -> int:
        """Its characters."""
        return sum(map(len, self.texts))

    @property
    def fields(self) -> set[str]:
        """Those of a request that it has texts of."""
        given = {"system": self.system, "history": self.history}
        return {"prompt", *(f"parameters.{name}" for name, texts in given.items() if texts)}

    def messages(self, prompt: str) -> list[dict[str, str]]:
        """All of it and the prompt, as templates take it."""
        roles = zip(cycle(("user", "assistant")), [*chain(*self.history), prompt], strict=False)
        system = [("system", self.system)] if self.system else []
        return [{"role": role, "content": text} for role, text in [*system, *roles]]


NO_TEMPLATE = "this model has no chat template: prompts are sent as they are"
WORDS: dict[bool | None, str] = {True: "on", False: "off"}
PLAIN = Chat()
"""Nothing around it."""
PROBE = "some words"
PROBES = {
    "prompt": Chat(),
    "parameters.system": Chat(system=PROBE),
    "parameters.history": Chat(history=((PROBE, PROBE),)),
}
"""By field: what is rendered to see whether a template writes all that it is given."""


@dataclass(frozen=True)
class ChatTemplate:
    """A tokenizer's. Where there is none, prompts are sent as they are."""

    tokenizer: Any

    @property
    def exists(self) -> bool:
        """Whether the tokenizer has one."""
        return self.tokenizer.chat_template is not None

    def division(self, chat: Chat | None) -> Division | None:
        """How the answer to a prompt divides; None: there are no thoughts."""
        if chat is None or not self.thinking.exists:
            return None
        return Division.behind(self.render("1", chat), self.thinking.marks)

    def check(self, chat: Chat | None) -> None:
        """Raise InvalidRequestError for what this model cannot do with any prompt."""
        if chat is None:
            return
        if not self.exists and chat != PLAIN:
            raise InvalidRequestError(NO_TEMPLATE, "parameters")
        if not self.thinking.can(chat.thinking):
            raise InvalidRequestError(
                f"this model's chat template cannot switch thoughts {WORDS[chat.thinking]}",
                "parameters.thinking",
            )
        for name in chat.fields & self._not_taken:
            raise InvalidRequestError(
                f"the model's chat template takes no {name.rpartition('.')[2]} that is text", name
            )

    @cached_property
    def _not_taken(self) -> set[str]:
        """Fields that it refuses, or leaves out without a word (those of models for images do)."""
        return {name for name, probe in PROBES.items() if self.exists and not self._takes(probe)}

    def _takes(self, probe: Chat) -> bool:
        try:
            return self.render(PROBE, probe).count(PROBE) >= len(probe.messages(PROBE))
        except InvalidRequestError:
            return False

    def render(self, prompt: str, chat: Chat) -> str:
        """The text of one prompt. Raises InvalidRequestError where the template refuses it."""
        arguments = self.thinking.arguments(on=chat.thinking)
        try:
            text = self._render(chat.messages(prompt), **arguments)
        except (TemplateError, TypeError, ValueError) as error:
            raise InvalidRequestError(
                f"the model's chat template does not take this conversation: {error}", "parameters"
            ) from error
        return text + self._opening(chat, text)

    def _opening(self, chat: Chat, text: str) -> str:
        """What opens the thought that is to come before a constrained answer."""
        if not (chat.opens_thought and self.thinking.is_on(chat.thinking)):
            return ""
        begins = phase_behind(text, self.thinking.marks)
        return self.thinking.opening if begins is Phase.BEFORE else ""

    def _render(self, messages: list[dict[str, str]], **arguments: object) -> str:
        text: str = self.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, **arguments
        )
        return text

    @cached_property
    def thinking(self) -> Thinking:
        """How the template has the model think."""
        if not self.exists:
            return NO_THOUGHTS
        question = [{"role": "user", "content": "1"}]
        return Thinking.of(template_of(self.tokenizer), partial(self._render, question))
