"""A base that trains itself in part or whole, where other methods put peft's model."""

from typing import Any

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel


class TunedBase(nn.Module):
    """Stands where a peft model stands for other methods."""

    def __init__(self, base: PreTrainedModel) -> None:
        super().__init__()
        base.requires_grad_(False)
        self.base_model = base

    def get_base_model(self) -> PreTrainedModel:
        """The model inside, as peft names it."""
        return self.base_model

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The model's own."""
        return self.base_model(*args, **kwargs)


def heads_of_keys(base: PreTrainedConfig) -> tuple[int, int]:
    """How many heads keys and values have, and their size: not hidden / heads in every model."""
    heads = getattr(base, "num_key_value_heads", None) or base.num_attention_heads
    size = getattr(base, "head_dim", None) or base.hidden_size // base.num_attention_heads
    return heads, size
