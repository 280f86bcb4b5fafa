"""Token ids to text, exactly as a stream would give it."""

from typing import Any

from tokenizers.decoders import DecodeStream


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
