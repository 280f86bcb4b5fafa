"""What vLLM's tokenizers lack: the text that continues a prompt, bounded caches."""

from inspect import getclosurevars
from queue import Queue
from typing import Any

from tokenizers.decoders import DecodeStream

CACHED_WORDS = 1000


def continuation(
    tokenizer: Any, prompt_ids: list[int], ids: list[int], *, skip_special_tokens: bool
) -> str:
    """The text that `ids` add to the prompt, the same as vLLM's incremental detokenizer gives.

    `tokenizer.decode(ids)` would not do: some tokenizers strip a space at the beginning of a text,
    and it writes U+FFFD for a character whose last bytes are missing.
    """
    stream = DecodeStream(ids=prompt_ids, skip_special_tokens=skip_special_tokens)
    backend = tokenizer.backend_tokenizer
    return "".join(stream.step(backend, token_id) or "" for token_id in ids)


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
