"""The texts of one answer: what it is asked with, its thought, itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
        inside, content = self._marks.split(message["content"])
        thought = message.get(THOUGHT) or inside
        self._refuse_thought(thought, content)
        kept = {**message, "content": content}
        return kept | {THOUGHT: thought} if thought and self.mode != "off" else _plain(kept)

    @property
    def _marks(self) -> Thinking:
        return self.thinking or PLAIN_MARKS

    def _refuse_thought(self, thought: str, content: str) -> None:
        if thought and self.mode is None:
            raise TrainingError(
                "an answer has a thought: thinking=data trains it, thinking=off leaves it out"
            )
        if self._marks.within(content):
            raise TrainingError(
                f"{' and '.join(self._marks.marks)} stand around a thought, once, before the"
                " answer: take them out of the rest of it"
            )

    def turn(self, messages: Messages, tools: Sequence[Message]) -> Turn:
        """The last answer of `messages`. Raises TrainingError where the template has no such."""
        *context, answer = messages
        if self.thinking is None:
            prompt, whole = self._both(context, answer, tools, {})
            return _continued(prompt, whole)
        thought = answer.get(THOUGHT, "")
        arguments = self.thinking.arguments(on=self.mode == "on" or bool(thought))
        prompt, whole = self._both(context, answer, tools, arguments)
        if thought and (rendered := self._as_rendered(self.thinking, prompt, whole, thought)):
            return rendered
        _, plain = self._both(context, _plain(answer), tools, arguments)
        if not thought and plain.startswith(prompt):
            return _continued(prompt, plain)
        return self._as_models_write(self.thinking, prompt, plain, thought)

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
    special = [
        str(token)
        for token in tokenizer.added_tokens_decoder.values()
        if token.special and str(token) in thinking.marks
    ]
    extra = [token for token in tokenizer.extra_special_tokens if token not in special]
    tokenizer.extra_special_tokens = extra
    tokenizer.add_tokens([AddedToken(mark, special=False, normalized=False) for mark in special])


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
