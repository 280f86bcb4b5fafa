"""Prompt text to token ids, through the model's own chat template."""

import asyncio
import copy
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, Literal

from service.engine.tokenizers import limit_cache
from service.errors import InvalidRequestError
from service.generation.chat import PLAIN, Chat, ChatTemplate
from service.generation.control_tokens import SHRINKS, TRUSTED, ControlTokens

SHORT = 2048  # characters that are encoded faster than a thread is woken
THREADS = 2
JSON_BYTES = 6  # most of one character, unless it is a pair of surrogates, which are two
VERBATIM = {"prompt": "set parameters.raw", "messages": "send it to /v1/completions"}


@dataclass(frozen=True)
class PromptEncoder:
    """Renders and encodes as training did: the template lives with the tokenizer.

    One for each tokenizer: reading the tokenizer's own settings takes longer than encoding.
    """

    tokenizer: Any
    max_tokens: int | None = None
    """Longest prompt that the model can hold; None: any."""
    _threads: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(THREADS, "tokenize"), compare=False
    )

    @property
    def has_template(self) -> bool:
        """False: prompts are sent raw."""
        return self.tokenizer.chat_template is not None

    async def encode_aside(self, prompt: str, chat: Chat | None) -> list[int]:
        """As `encode`, in a thread where it takes long, so that other requests go on."""
        size = len(prompt) + (chat or PLAIN).size
        if size <= SHORT:
            return self.encode(prompt, chat)
        self.refuse_too_long(prompt, size=size)
        encode = partial(self.encode, prompt, chat)
        return await asyncio.get_running_loop().run_in_executor(self._threads, encode)

    async def decode_aside(self, ids: list[int]) -> str:
        """The text of token ids, special tokens included."""
        decode = partial(self.tokenizer.decode, ids)
        if len(ids) <= SHORT:
            return str(decode())
        return str(await asyncio.get_running_loop().run_in_executor(self._threads, decode))

    def encode(self, prompt: str, chat: Chat | None = PLAIN) -> list[int]:
        """Token ids of one prompt; without `chat` it is sent verbatim.

        Raises InvalidRequestError for an empty prompt, one too long for any model of this size,
        for what the template cannot do, and for control tokens in a prompt that is to be rendered:
        they are data there, and would act as commands.
        """
        if not prompt.strip():
            raise InvalidRequestError("the prompt is empty", "prompt")
        self.refuse_too_long(prompt)
        if chat is None or not self.has_template:
            return self._one_bos(self._ids(prompt))
        for message in chat.messages(prompt):
            text, trusted = message["content"], message["role"] in TRUSTED
            self.refuse_control_tokens(text, trusted=trusted, param="prompt")
        # The template writes BOS itself; training encodes exactly so, and ids must not differ.
        return self._ids(self.template.render(prompt, chat))

    @cached_property
    def template(self) -> ChatTemplate:
        """The one that conversations are rendered with."""
        return ChatTemplate(self.tokenizer)

    def refuse_control_tokens(
        self, text: str, *, trusted: bool, param: Literal["prompt", "messages"] = "messages"
    ) -> None:
        """Raise InvalidRequestError for text to be rendered that would act as a command."""
        token = self._control_tokens.first_in(text, trusted=trusted)
        if token is not None:
            raise InvalidRequestError(
                f"the text holds the control token {token!r}: take it out, or write the whole"
                f" prompt yourself and {VERBATIM[param]}",
                param,
            )

    def refuse_too_long(self, text: str, param: str = "prompt", *, size: int = 0) -> None:
        """Raise InvalidRequestError for a text that needs more tokens than the model can hold.

        Decided by its characters, before it costs anything.
        """
        size = size or len(text)
        if self.max_tokens is None or size <= self.max_tokens * self._most_characters:
            return
        raise InvalidRequestError(
            f"{param} has {size} characters; the model holds {self.max_tokens} tokens of at "
            f"most {self._most_characters} characters each: shorten it",
            param,
        )

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

    @property
    def most_bytes(self) -> int | None:
        """Of the JSON of a text that the model could hold: an escaped character takes six."""
        if self.max_tokens is None:
            return None
        return self.max_tokens * self._most_characters * JSON_BYTES

    @cached_property
    def _control_tokens(self) -> ControlTokens:
        """Those that users' text must not hold."""
        return ControlTokens.of(self.tokenizer)

    @cached_property
    def _most_characters(self) -> int:
        """Of the text of one token."""
        longest = max(map(len, self.tokenizer.get_vocab()), default=1)
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        shrinks = backend is None or backend.normalizer is not None
        return longest * (SHRINKS if shrinks else 1)

    @cached_property
    def _adds_bos(self) -> bool:
        ids = self.tokenizer.encode("", add_special_tokens=True)
        return bool(ids) and ids[0] == self.tokenizer.bos_token_id
