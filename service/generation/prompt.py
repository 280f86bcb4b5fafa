"""Prompt text to token ids, through the model's own chat template."""

import copy
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from service.engine.tokenizers import limit_cache
from service.errors import InvalidRequestError


@dataclass(frozen=True)
class PromptEncoder:
    """Renders and encodes as training did: the template lives with the tokenizer.

    One for each tokenizer: reading the tokenizer's own settings takes longer than encoding.
    """

    tokenizer: Any

    @property
    def has_template(self) -> bool:
        """False: prompts are sent raw."""
        return self.tokenizer.chat_template is not None

    def encode(self, prompt: str, *, raw: bool) -> list[int]:
        """Token ids of one prompt.

        Raises InvalidRequestError for an empty prompt, and for control tokens in a prompt that
        is to be rendered: they are data there, and would act as commands.
        """
        if not prompt.strip():
            raise InvalidRequestError("the prompt is empty", "prompt")
        if raw or not self.has_template:
            return self._one_bos(self._ids(prompt))
        for token in self._special_tokens:
            if token in prompt:
                raise InvalidRequestError(
                    f"the prompt holds the control token {token!r}; take it out, or write the "
                    "whole prompt yourself and set parameters.raw",
                    "prompt",
                )
        messages = [{"role": "user", "content": prompt}]
        text = self.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
        # The template writes BOS itself; training encodes exactly so, and ids must not differ.
        return self._ids(text)

    def _ids(self, text: str) -> list[int]:
        """As the tokenizer's encode(text, add_special_tokens=False) gives them."""
        if self._rust is None:
            ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        else:
            ids = self._rust.encode_batch_fast([text], add_special_tokens=False)[0].ids
        return ids

    def _one_bos(self, ids: list[int]) -> list[int]:
        """Put BOS in front where this tokenizer adds one, and leave out a second."""
        bos = self.tokenizer.bos_token_id
        if bos is None or not self._adds_bos:
            return ids
        start = 0
        while start < len(ids) and ids[start] == bos:
            start += 1
        return [bos, *ids[start:]]

    @cached_property
    def _rust(self) -> Any:
        """The tokenizer in Rust, called directly: the Python around it takes as long again.

        None where Python has a part in encoding. A copy: others set truncation on theirs.
        """
        from transformers import TokenizersBackend  # late: /livez answers before it is loaded

        encoding = getattr(type(self.tokenizer), "_encode_plus", None)
        if encoding is not TokenizersBackend._encode_plus:
            return None
        rust = copy.deepcopy(self.tokenizer.backend_tokenizer)
        rust.no_truncation()
        rust.no_padding()
        rust.encode_special_tokens = self.tokenizer.split_special_tokens
        limit_cache(rust)
        return rust

    @cached_property
    def _special_tokens(self) -> list[str]:
        return list(self.tokenizer.all_special_tokens)

    @cached_property
    def _adds_bos(self) -> bool:
        ids = self.tokenizer.encode("", add_special_tokens=True)
        return bool(ids) and ids[0] == self.tokenizer.bos_token_id
