"""The settings of a ChatGLM-6B model directory (config.json)."""

from typing import ClassVar

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig


@strict
class ChatGLM6BConfig(PreTrainedConfig):
    """ChatGLM-6B, first version; the defaults are those of the published model.

    Its own names are kept where transformers has none: `inner_hidden_size` is the width of the
    MLP; <sop> is `bos_token_id`, <eop> is `eos_token_id`.
    """

    model_type = "chatglm_6b"
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values"]

    vocab_size: int = 130528
    hidden_size: int = 4096
    inner_hidden_size: int = 16384
    num_hidden_layers: int = 28
    num_attention_heads: int = 32
    layernorm_epsilon: float = 1e-5
    max_position_embeddings: int = 2048
    initializer_range: float = 0.02
    use_cache: bool = True
    bos_token_id: int | None = 130004
    eos_token_id: int | list[int] | None = 130005
    gmask_token_id: int = 130001
    mask_token_id: int = 130000
    pad_token_id: int | None = 3
    tie_word_embeddings: bool = False

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_attention_heads
