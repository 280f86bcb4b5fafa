"""Conversations to token ids, through the chat template that serving will render with too."""

from training.rendering.conversation import Rendering, encode_prompt
from training.rendering.tokenizer import load_tokenizer

__all__ = ["Rendering", "encode_prompt", "load_tokenizer"]
