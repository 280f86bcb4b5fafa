"""Completions whose thought stands apart from their text."""

from dataclasses import dataclass, field, replace
from typing import Any

from service.engine.protocol import Completion
from service.engine.thinking.marks import Division, Splitter


def apart(completion: Completion, division: Division | None, tokenizer: Any) -> Completion:
    """A whole completion with the thought out of its text, and its tokens counted."""
    if division is None:
        return completion
    cut = completion.finish_reason == "length"
    parts, unfinished = division.split(completion.text, cut=cut)
    if not parts.thought and not unfinished:
        return replace(completion, text=parts.answer)
    ids = completion.token_ids
    count = len(ids) if unfinished else division.count_thought(tokenizer, ids)
    return replace(completion, text=parts.answer, thought=parts.thought, thought_tokens=count)


@dataclass
class Thoughts:
    """The outputs of one streamed prompt, each divided as it comes."""

    division: Division | None
    _splitters: dict[int, Splitter] = field(default_factory=dict)

    def divide(self, completion: Completion) -> Completion:
        """A delta; of what is not certain yet nothing is shown, until the output ends."""
        if self.division is None:
            return completion
        splitter = self._splitters.setdefault(completion.index, self.division.splitter())
        parts = splitter.feed(completion.text)
        if completion.finish_reason is not None:
            parts += splitter.finish(cut=completion.finish_reason == "length")
        return replace(completion, text=parts.answer, thought=parts.thought or None)
