"""Thoughts for vLLM: its own routes tell them from answers, and grammars begin behind them."""

from collections.abc import Iterable, Sequence
from typing import Any

from vllm.entrypoints.generate.base.protocol import DeltaMessage
from vllm.reasoning.abs_reasoning_parsers import ReasoningParser

from service.engine.thinking.marks import (
    SWITCHES,
    Division,
    Parts,
    Phase,
    Splitter,
    ThoughtCounter,
    template_of,
)
from service.model_directory.thoughts import marks_in

TAIL = 32
"""Tokens that hold a mark, however it is spelled, and the white space behind it."""


class ThoughtParser(ReasoningParser):  # type: ignore[misc]
    """One for each request, in the server's process and in the engine's."""

    def __init__(self, tokenizer: Any, *args: Any, **settings: Any) -> None:
        super().__init__(tokenizer, *args, **settings)
        marks = marks_in(template_of(tokenizer))
        if marks is None:
            raise ValueError("the chat template knows no thoughts")
        self._marks = marks
        self._in_engine = settings.get("model_config") is None
        self._division = self._rendered(settings.get("chat_template_kwargs") or {})
        self._splitter: Splitter | None = None
        self._counter: ThoughtCounter | None = None

    @property
    def reasoning_start_str(self) -> str:
        """The opening mark."""
        return self._marks[0]

    @property
    def reasoning_end_str(self) -> str:
        """The closing mark."""
        return self._marks[1]

    def is_reasoning_end(self, input_ids: Sequence[int]) -> bool:
        """Whether what follows a prompt is answer from its first token."""
        self._division = Division.behind(self._text(input_ids[-TAIL:]), self._marks)
        self._counter = None
        return self._division.phase is Phase.CLOSED

    def is_reasoning_end_streaming(
        self, input_ids: Sequence[int], delta_ids: Iterable[int]
    ) -> bool:
        """Whether the last tokens close the thought, for the engine alone.

        In the server's process a stream goes through `extract_reasoning_streaming` to its end.
        """
        new = len(list(delta_ids))
        if not self._in_engine or not new:
            return False
        tail = input_ids[-TAIL - new :]
        text, before = self._text(tail), self._text(tail[:-new])
        return text.count(self._marks[1]) > before.count(self._marks[1])

    def extract_content_ids(self, input_ids: list[int]) -> list[int]:
        """Those behind the closing mark."""
        return input_ids[self.count_reasoning_tokens(input_ids) :]

    def count_reasoning_tokens(self, token_ids: Sequence[int]) -> int:
        """Of an output, its marks included."""
        self._counter = self._counter or ThoughtCounter(self._division, self.model_tokenizer)
        return self._counter.count(list(token_ids))

    def extract_reasoning(self, model_output: str, request: Any) -> tuple[str | None, str | None]:
        """Thought and answer of a whole text, as streams give them."""
        if self._division.phase is Phase.CLOSED:
            return None, model_output or None
        parts, _ = self._division.split(model_output)
        return parts.thought or None, parts.answer or None

    def extract_reasoning_streaming(
        self,
        previous_text: str,
        current_text: str,
        delta_text: str,
        previous_token_ids: Sequence[int],
        current_token_ids: Sequence[int],
        delta_token_ids: Sequence[int],
    ) -> DeltaMessage | None:
        """What a piece of a stream adds to each."""
        self._splitter = self._splitter or self._division.splitter()
        parts = self._splitter.feed(delta_text)
        if parts == Parts():
            return None
        return DeltaMessage(reasoning=parts.thought or None, content=parts.answer or None)

    def get_streaming_fallback_content(self, streamed: str, request: Any) -> str | None:
        """What was held back of an answer that the end cut off."""
        return self._splitter.finish().answer or None if self._splitter else None

    def _rendered(self, arguments: dict[str, Any]) -> Division:
        question = [{"role": "user", "content": "1"}]
        switches = {key: arguments[key] for key in SWITCHES if arguments.get(key) is not None}
        prompted = arguments.get("add_generation_prompt", True) is not False
        text = self.model_tokenizer.apply_chat_template(
            question, tokenize=False, add_generation_prompt=prompted, **switches
        )
        return Division.behind(text, self._marks)

    def _text(self, ids: Sequence[int]) -> str:
        return str(self.model_tokenizer.decode(list(ids), skip_special_tokens=False))
