"""Trained prefixes (P-tuning v2, peft's prefix tuning) in any vLLM model.

The engine puts as many placeholder tokens before a prompt as the prefix is long. In every layer
the keys and values computed for them are replaced by the trained ones before attention, so the
cache, batching and preemption treat the prefix like any other tokens.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from torch import nn
from vllm.distributed import get_tensor_model_parallel_rank, get_tensor_model_parallel_world_size

FILE = Path("prefix/prefix.safetensors")


class PrefixRows(nn.Module):
    """One layer's trained keys and values: this rank's heads, [P, heads, head_dim] each."""

    key: torch.Tensor
    value: torch.Tensor

    def __init__(self, tokens: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.tokens = tokens
        for name in ("key", "value"):
            self.register_buffer(name, torch.zeros(tokens, heads, head_dim), persistent=False)

    def forward(
        self, index: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values [tokens, heads, head_dim], replaced where `index` [tokens] is below P."""
        mine = (index < self.tokens).view(-1, 1, 1)
        row = index.clamp(max=self.tokens - 1)
        return torch.where(mine, self.key[row], key), torch.where(mine, self.value[row], value)


def load_prefix(model: str, layers: Sequence[PrefixRows]) -> None:
    """Fill the layers' rows from the model directory's prefix/ (layers.N.key, layers.N.value).

    Raises ValueError when the file is missing or does not fit the model.
    """
    path = Path(model) / FILE
    if not path.is_file():
        raise ValueError(f"{path} is missing: config.json promises a prefix; merge it again")
    rank, ranks = get_tensor_model_parallel_rank(), get_tensor_model_parallel_world_size()
    with safe_open(path, "pt") as file:
        for number, rows in enumerate(layers):
            for name in ("key", "value"):
                stored = file.get_tensor(f"layers.{number}.{name}").transpose(0, 1)
                buffer: torch.Tensor = getattr(rows, name)
                if stored.shape[::2] != buffer.shape[::2]:
                    raise ValueError(f"{path}: layers.{number}.{name} does not fit the model")
                first = rank * stored.shape[1] // ranks  # heads shared, or fewer than ranks
                buffer.copy_(stored[:, first : first + buffer.shape[1]])
