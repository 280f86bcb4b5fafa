"""The texts of one answer: what it is asked with, its thought, itself."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from types import MappingProxyType
from typing import Any, Self

from jinja2 import TemplateError
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerBase as Tokenizer

from training.data.messages import Message
from training.data.settings import Mode
from training.errors import TrainingError
from training.rendering.thinking import MARKS, Thinking, find_switch, find_thinking, settle

Messages = Sequence[Message]
THOUGHT = "reasoning_content"
QUESTION: Message = {"role": "user", "content": "a question"}
PLAIN_MARKS = Thinking(MARKS[0], *MARKS[0])
KNOWN = " or ".join(map("…".join, MARKS))
CHECKED = ("system", "tool")
"""Roles that some templates know nothing of."""
NO_CONTINUATION = (
    "the chat template does not continue its own prompt with the answer; use a template whose"
    " conversation starts with its generation prompt"
)


@dataclass(frozen=True)
class Turn:
    """One answer as the template writes it, behind what it is asked with."""

    prompt: str
    thought: str
    """With its marks, as far as the prompt does not have them; "" without a thought."""
    answer: str
    """Up to its end."""


@dataclass(frozen=True)
class ChatTemplate:
    """A tokenizer's template, settled: its default is what training has the model do."""

    tokenizer: Tokenizer
    thinking: Thinking | None = None
    mode: Mode | None = None
    """Of thoughts. None: no answer may have one."""

    @classmethod
    def of(cls, tokenizer: Tokenizer, mode: Mode | None = None) -> Self:
        """Settle the template's default, in the tokenizer too, so that serving has the same.

        Raises TrainingError where the template cannot do it.
        """

        def probe(**arguments: object) -> str:
            return render(tokenizer, [QUESTION], arguments=arguments)

        template = tokenizer.chat_template
        thinking = find_thinking(template, probe)
        _refuse_lost_text(probe())
        if thinking is None:
            _refuse_mode(mode, find_switch(template, probe))
        lead = _lead(tokenizer, thinking) if thinking else ""
        _show(tokenizer, thinking or PLAIN_MARKS)
        tokenizer.chat_template = settle(template, thinking, mode or "off", probe, lead)
        return cls(tokenizer, find_thinking(tokenizer.chat_template, probe), mode)

    def separated(self, message: Message) -> Message:
        """The thought of an answer in a member of its own, if thoughts are trained.

        Raises TrainingError for one that is not wanted, and for marks elsewhere.
        """
        inside, content = self._divided(message["content"])
        thought = (message.get(THOUGHT) or inside).strip()
        self._refuse_thought(thought, content)
        if thought and not (content.strip() or message.get("tool_calls")):
            raise TrainingError("there is a thought, and no answer behind it")
        kept = _plain({**message, "content": content})
        trained = thought * (self.mode != "off")
        return kept | {THOUGHT: trained} if trained else kept

    @property
    def _marks(self) -> Thinking:
        return self.thinking or PLAIN_MARKS

    def _divided(self, content: str) -> tuple[str, str]:
        """By the template's own marks, or by those of another family that the data came from."""
        known = (self._marks, *(Thinking(pair, *pair) for pair in MARKS))
        parts = (marks.split(content) for marks in known)
        return next(((thought, rest) for thought, rest in parts if rest != content), ("", content))

    def _refuse_thought(self, thought: str, content: str) -> None:
        if thought and self.mode is None:
            raise TrainingError(
                "an answer has a thought: thinking=data trains it, thinking=off leaves it out"
            )
        if self._marks.within(content) or self._marks.within(thought):
            raise TrainingError(
                f"{' and '.join(self._marks.marks)} stand around a thought, once, before the"
                " answer: take them out of the rest of it"
            )

    def turn(self, messages: Messages, tools: Sequence[Message]) -> Turn:
        """The last answer of `messages`.

        Raises TrainingError where the template has no such, or leaves out what stands before it.
        """
        turn = self._turn(messages, tools)
        _refuse_left_out(turn, messages, tools)
        return turn

    def _turn(self, messages: Messages, tools: Sequence[Message]) -> Turn:
        *context, answer = messages
        if self.thinking is None:
            prompt, whole = self._both(context, answer, tools, {})
            return _continued(prompt, whole)
        return self._thinking_turn(self.thinking, messages, tools)

    def _thinking_turn(
        self, thinking: Thinking, messages: Messages, tools: Sequence[Message]
    ) -> Turn:
        *context, answer = messages
        thought = answer.get(THOUGHT, "")
        arguments = thinking.arguments(on=self.mode == "on" or bool(thought))
        prompt, whole = self._both(context, answer, tools, arguments)
        if thought and (rendered := self._as_rendered(thinking, prompt, whole, thought)):
            return rendered
        _, plain = self._both(context, _plain(answer), tools, arguments)
        if not thought and plain.startswith(prompt):
            return _continued(prompt, plain)
        return self._as_models_write(thinking, prompt, plain, thought)

    def _both(
        self,
        context: Messages,
        answer: Message,
        tools: Sequence[Message],
        arguments: Mapping[str, object],
    ) -> tuple[str, str]:
        """The text that asks, and the same with its answer."""
        prompt = render(self.tokenizer, context, tools=tools, arguments=arguments)
        answered = [*context, answer]
        whole = render(self.tokenizer, answered, tools=tools, prompt=False, arguments=arguments)
        return prompt, whole

    def _as_rendered(
        self, thinking: Thinking, prompt: str, whole: str, thought: str
    ) -> Turn | None:
        """The turn with a thought, where the template itself writes it."""
        before, found, after = whole.removeprefix(prompt).partition(thought)
        answer = thinking.without_block(after)
        opens = before.strip() in ("", thinking.marks[0])
        if not (whole.startswith(prompt) and found and opens and answer != after):
            return None
        closing = after[: len(after) - len(answer)]
        return Turn(prompt, before + thought + closing, answer)

    def _as_models_write(self, thinking: Thinking, prompt: str, plain: str, thought: str) -> Turn:
        """The turn where the template leaves the block out of it."""
        header = thinking.header(prompt)
        answer = thinking.without_block(_continued(header, plain).answer)
        if thinking.is_open(prompt):
            return Turn(prompt, thought + thinking.closing, answer)
        block = f"{thinking.opening}{thought}{thinking.closing}" if thought else ""
        return Turn(prompt, block, answer)


def _continued(prompt: str, whole: str) -> Turn:
    if not whole.startswith(prompt) or whole == prompt:
        raise TrainingError(NO_CONTINUATION)
    return Turn(prompt, "", whole[len(prompt) :])


def _refuse_left_out(turn: Turn, messages: Messages, tools: Sequence[Message]) -> None:
    """Templates that know no system texts, tools or calls leave them out without a word."""
    *context, answer = messages
    lost = [kind for kind, text in _given(context, tools) if not _is_in(turn.prompt, text)]
    lost += ["calls of tools" for name in _called(answer) if name not in turn.answer]
    if lost:
        raise TrainingError(f"the chat template leaves {lost[0]} out: name another, template=…")


def _given(context: Messages, tools: Sequence[Message]) -> Iterator[tuple[str, str]]:
    for message in context:
        if message["role"] in CHECKED:
            yield f"{message['role']} texts", message["content"]
    for tool in tools:
        yield "tools", str(tool.get("function", tool).get("name", ""))


def _called(answer: Message) -> list[str]:
    return [call["function"]["name"] for call in answer.get("tool_calls") or ()]


def _is_in(prompt: str, text: str) -> bool:
    """As it is, or as JSON."""
    as_json = (json.dumps(text, ensure_ascii=escaped)[1:-1] for escaped in (False, True))
    return any(spelling in prompt for spelling in chain([text.strip()], as_json))  # mostly as it is


def _plain(message: Message) -> Message:
    """Without a thought."""
    return {key: value for key, value in message.items() if key != THOUGHT}


def _refuse_lost_text(prompt: str) -> None:
    if QUESTION["content"] not in prompt:
        raise TrainingError(
            "the chat template leaves the text of messages out (it wants lists of parts, as those"
            " of models for images do): name another one with template=…"
        )


def _refuse_mode(mode: Mode | None, switch: str | None) -> None:
    """What cannot be done with a template whose thoughts have no marks that are known."""
    if mode == "on" or (mode == "data" and switch):
        has = f"switches thoughts by {switch}, but marks them otherwise" if switch else "has none"
        raise TrainingError(
            f"thinking={mode}: the chat template {has} (known: {KNOWN}); thinking=off, or name"
            " another one with template=…"
        )


def _show(tokenizer: Tokenizer, thinking: Thinking) -> None:
    """Make marks ordinary tokens: special ones are left out of the texts that are served."""
    added = tokenizer.added_tokens_decoder.values()
    special = {str(token) for token in added if token.special} & {*thinking.marks}
    extra = [token for token in tokenizer.extra_special_tokens if token not in special]
    tokenizer.extra_special_tokens = extra
    ordinary = [AddedToken(mark, special=False, normalized=False) for mark in sorted(special)]
    tokenizer.add_tokens(ordinary)


def _lead(tokenizer: Tokenizer, thinking: Thinking) -> str:
    """White space that the template writes between an empty block and the answer."""
    off = thinking.arguments(on=False)
    prompt = render(tokenizer, [QUESTION], arguments=off)
    answered = [QUESTION, {"role": "assistant", "content": "2"}]
    whole = render(tokenizer, answered, prompt=False, arguments=off)
    if not whole.startswith(prompt) or thinking.tail(prompt) is None:
        return ""
    rest = whole[len(prompt) :]
    return rest[: len(rest) - len(rest.lstrip())]


def render(
    tokenizer: Tokenizer,
    messages: Messages,
    *,
    tools: Sequence[Mapping[str, Any]] = (),
    prompt: bool = True,
    arguments: Mapping[str, object] = MappingProxyType({}),
) -> str:
    """The conversation as text; `prompt`: up to where the next answer begins."""
    try:
        text: str = tokenizer.apply_chat_template(
            [*messages],
            tools=[*tools] or None,
            tokenize=False,
            add_generation_prompt=prompt,
            **arguments,
        )
    except (TemplateError, TypeError, ValueError) as error:
        raise TrainingError(
            f"the chat template does not take this conversation: {error}"
        ) from error
    return text
