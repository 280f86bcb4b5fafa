"""What vLLM's tokenizers lack: the text that continues a prompt, bounded caches."""

from inspect import getclosurevars
from queue import Queue
from typing import Any

from tokenizers.decoders import DecodeStream

CACHED_WORDS = 1000
WINDOW = 8  # tokens that hold the whole of a last character
REPLACEMENT = "\ufffd"
INVALID_PREFIX = "Invalid prefix encountered"


def continuation(
    tokenizer: Any, prompt_ids: list[int], ids: list[int], *, skip_special_tokens: bool
) -> list[str]:
    """What each of `ids` adds to the text after the prompt, as vLLM's detokenizer gives it.

    `tokenizer.decode(ids)` would not do: some tokenizers strip a space at the beginning of a text,
    and it writes U+FFFD for a character whose last bytes are missing.
    """
    backend = tokenizer.backend_tokenizer
    stream = stream_after(backend, prompt_ids, skip_special_tokens=skip_special_tokens)
    pieces = Pieces(backend, stream, skip_special_tokens=skip_special_tokens)
    return [pieces.step(token_id) for token_id in ids]


class Pieces:
    """What each token adds to a text, one after the other."""

    def __init__(self, backend: Any, stream: DecodeStream, *, skip_special_tokens: bool) -> None:
        self._backend, self._stream, self._skip = backend, stream, skip_special_tokens

    def step(self, token_id: int) -> str:
        """What this one adds; "" within a character."""
        try:
            piece = self._stream.step(self._backend, token_id)
        except Exception as error:  # of no type of its own
            if not str(error).startswith(INVALID_PREFIX):
                raise
            # bytes that are no UTF-8 change what was decoded before
            self._stream = DecodeStream(skip_special_tokens=self._skip)
            piece = self._stream.step(self._backend, token_id)
        return piece or ""


def stream_after(backend: Any, prompt_ids: list[int], *, skip_special_tokens: bool) -> DecodeStream:
    """A stream whose steps give what follows the prompt.

    DecodeStream would give the prompt itself where that ends inside a character, or in U+FFFD:
    those last tokens are left out. After many of them the stream begins anew.
    """
    end, least = len(prompt_ids), max(0, len(prompt_ids) - WINDOW)
    while end > least and backend.decode(
        prompt_ids[max(0, end - WINDOW) : end], skip_special_tokens=skip_special_tokens
    ).endswith(REPLACEMENT):
        end -= 1
    known = prompt_ids[:end] if end > least or not least else []
    return DecodeStream(ids=known, skip_special_tokens=skip_special_tokens)


def limit_cache(rust: Any) -> None:
    """Bound the memory of a tokenizer of the tokenizers library.

    To one that splits at no space, as LLaMA's, a whole prompt is one word. By default it keeps
    more than 10,000 of them: 50 MB that never help.
    """
    if hasattr(rust.model, "_resize_cache"):
        rust.model._resize_cache(CACHED_WORDS)


def limit_pooled_caches(tokenizer: Any) -> None:
    """Bound the memory of the copies that vLLM encodes with, now and later.

    It hides them in a closure, and makes one more whenever all are in use. Its own tokenizers in
    Python have none.
    """
    borrow = getclosurevars(type(tokenizer).encode).nonlocals.get("_borrow_from_pool")
    if borrow is None:
        return
    pool: Queue[Any] = getclosurevars(borrow.__wrapped__).nonlocals["tokenizer_pool"]
    give_back = pool.put

    def put(copy: Any) -> None:
        limit_cache(copy.backend_tokenizer)
        give_back(copy)

    pool.put = put  # type: ignore[method-assign,assignment]
    with borrow():
        pass  # the first one is there already
