"""Conversations to token ids: what serving would render is given, what follows it is learned."""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

from transformers import PreTrainedTokenizerBase as Tokenizer

from training.data.collate import EncodedSample
from training.data.messages import Message, Row, texts
from training.data.settings import Mode
from training.errors import TrainingError
from training.rendering.control_tokens import TRUSTED, ControlTokens, joined
from training.rendering.tokenizer import encode
from training.rendering.turns import ChatTemplate, Messages, Turn, render


@dataclass(frozen=True)
class Rendering:
    """Encodes conversations by the tokenizer's chat template."""

    template: ChatTemplate
    train_thoughts: bool = True

    @classmethod
    def of(
        cls, tokenizer: Tokenizer, mode: Mode | None = None, *, train_thoughts: bool = True
    ) -> Self:
        """Settle the template's default, in the tokenizer too, so that serving has the same.

        Raises TrainingError where the template cannot do it.
        """
        return cls(ChatTemplate.of(tokenizer, mode), train_thoughts)

    @property
    def tokenizer(self) -> Tokenizer:
        """The one that is rendered for."""
        return self.template.tokenizer

    def encode(self, row: Row, max_length: int) -> list[EncodedSample]:
        """Samples of at most `max_length` tokens that learn the answers of `row`.

        It is one, unless the template writes an earlier answer otherwise than it was asked for:
        then it is one an answer, each as it would be served.
        What is too long loses its oldest rounds first, then the middle of its last question:
        questions stand at either end.
        Raises TrainingError for control tokens in the text, and for an answer too long to fit.
        """
        with _told(row):
            row = replace(row, messages=tuple(map(self._separated, row.messages)))
            self._refuse_control_tokens(row)
            together = self._together(row) if len(row.learned) > 1 else None
            if together and len(together.ids) <= max_length:
                return [together]
            return [self._alone(row, place, max_length) for place in row.learned]

    def _separated(self, message: Message) -> Message:
        is_answer = message["role"] == "assistant"
        return self.template.separated(message) if is_answer else message

    def _together(self, row: Row) -> EncodedSample | None:
        """All answers in one sequence; None where some prompt of serving is no part of it."""
        ids: list[int] = []
        pairs = []
        for place in row.learned:
            context, answer = self._ids(row.messages[: place + 1], row)
            if context[: len(ids)] != ids:
                return None
            pairs.append((context[len(ids) :], answer))
            ids = [*context, *answer]
        return EncodedSample(tuple(pairs))

    def _alone(self, row: Row, place: int, max_length: int) -> EncodedSample:
        messages: Messages = row.messages[: place + 1]
        context, answer = self._ids(messages, row)
        whole, limit = len(context), max_length - len(answer)
        if whole > limit:
            context = self._shortened(messages, row, limit)
        if not context:
            raise TrainingError(
                f"the answer's {len(answer)} tokens leave no room for a prompt in"
                f" data.max_length={max_length}"
            )
        return EncodedSample(((context, answer),), whole - len(context))

    def _shortened(self, messages: Messages, row: Row, limit: int) -> list[int]:
        """Ids without the oldest rounds, as few as `limit` takes; [] where it takes nothing."""

        def fits(count: int) -> bool:
            return len(self._ids(_without_oldest(messages, count), row)[0]) <= limit

        most = len(_questions(messages)) - 1
        left_out = bisect_left(range(most + 1), True, key=fits)
        if left_out > most:
            return self._cut_middle(_without_oldest(messages, most), row, limit)
        return self._ids(_without_oldest(messages, left_out), row)[0]

    def _cut_middle(self, messages: Messages, row: Row, limit: int) -> list[int]:
        """Ids with the longest head + tail of the last question that fit `limit`; [] for none."""
        place = _questions(messages)[-1]
        text = messages[place]["content"]
        fits: list[int] = []
        low, high = 0, len(text)
        while low < high:
            keep = (low + high) // 2
            head = (keep + 1) // 2
            shorter = text[:head] + text[len(text) - (keep - head) :]
            cut = [*messages]
            cut[place] = {**messages[place], "content": shorter}
            ids, _ = self._ids(cut, row)
            if len(ids) <= limit:
                fits, low = ids, keep + 1
            else:
                high = keep
        return fits

    def _ids(self, messages: Messages, row: Row) -> tuple[list[int], list[int]]:
        """Token ids that are given before the last answer, and those that are learned."""
        turn = self.template.turn(messages, row.tools)
        context = encode(self.tokenizer, turn.prompt)
        learned = self._following(turn.prompt, context, turn.thought + turn.answer)
        if turn.thought and not self.train_thoughts:
            context, learned = self._without_loss(turn, context, learned)
        # Some templates (GLM-4's) let the next question end an answer: training needs an end.
        eos = self.tokenizer.eos_token_id
        return context, learned if eos in (None, *learned[-2:]) else [*learned, eos]

    def _without_loss(
        self, turn: Turn, context: list[int], learned: list[int]
    ) -> tuple[list[int], list[int]]:
        """The same ids, those of the thought among the given ones."""
        thought = self._following(turn.prompt, context, turn.thought)
        if learned[: len(thought)] == thought:
            return context + thought, learned[len(thought) :]
        return context + thought, encode(self.tokenizer, turn.answer)

    def _following(self, prompt: str, context: list[int], text: str) -> list[int]:
        """Ids of `text` behind the prompt."""
        ids = encode(self.tokenizer, prompt + text)
        if ids[: len(context)] == context:
            return ids[len(context) :]
        # a token would span the border: serving knows the prompt alone, so it must hold
        return encode(self.tokenizer, text)

    def _refuse_control_tokens(self, row: Row) -> None:
        """They would be read as commands to the model."""
        trusted, others = [*row.tools], []  # type: tuple[list[Message], list[Message]]
        for message in row.messages:
            (trusted if message["role"] in TRUSTED else others).append(message)
        find = self._control_tokens
        token = find.in_text(joined(texts(others))) or find.in_trusted(joined(texts(trusted)))
        if token:
            raise TrainingError(
                f"the text holds the control token {token!r} of {self.tokenizer.name_or_path},"
                " which would be read as a command to the model: remove it from the data"
            )

    @cached_property
    def _control_tokens(self) -> ControlTokens:
        return ControlTokens(self.tokenizer)


def encode_prompt(
    tokenizer: Tokenizer, prompt: str, history: Sequence[tuple[str, str]] = ()
) -> list[int]:
    """Token ids of a conversation up to one more user turn, ready for the answer to follow."""
    messages = Row.of(prompt, "", "", history).messages[:-1]
    return encode(tokenizer, render(tokenizer, messages))


@contextmanager
def _told(row: Row) -> Iterator[None]:
    """What is wrong is told with the row's place."""
    try:
        yield
    except TrainingError as error:
        raise TrainingError(f"{row.where}: {error}") from error


def _questions(messages: Messages) -> list[int]:
    return [place for place, message in enumerate(messages) if message["role"] == "user"]


def _without_oldest(messages: Messages, count: int) -> Messages:
    """Without the `count` oldest questions and what belongs to them; fewer than there are."""
    questions = _questions(messages)
    lead = questions[0] if messages[0]["role"] == "system" else 0
    return [*messages[:lead], *messages[questions[count] :]] if count else messages
