"""LLaMA with a trained prefix, for vLLM."""

from collections.abc import Iterable
from typing import Any

import torch
from vllm.config import VllmConfig
from vllm.model_executor.models.llama import LlamaAttention, LlamaDecoderLayer, LlamaForCausalLM

from service.engine.models.prefixes import PrefixRows, load_prefix


class PrefixLlamaAttention(LlamaAttention):
    """Attention that sees the prefix. Where the text's positions begin, config.json says."""

    def __init__(self, config: Any, *args: Any, **settings: Any) -> None:
        super().__init__(config, *args, **settings)
        self.shift = config.prefix_tokens - config.prefix_position_offset
        self.prefix_rows = PrefixRows(config.prefix_tokens, self.num_kv_heads, self.head_dim)

    def forward(self, positions: torch.Tensor, hidden_states: torch.Tensor) -> torch.Tensor:
        """[tokens, hidden] in and out; `positions` [tokens] count the placeholders too."""
        qkv, _ = self.qkv_proj(hidden_states)
        query, key, value = qkv.split([self.q_size, self.kv_size, self.kv_size], dim=-1)
        query, key = self.rotary_emb((positions - self.shift).clamp(min=0), query, key)
        heads = (len(positions), self.num_kv_heads, self.head_dim)
        key, value = self.prefix_rows(positions, key.view(heads), value.view(heads))
        out, _ = self.o_proj(self.attn(query, key.flatten(1), value.flatten(1)))
        return out


class PrefixLlamaDecoderLayer(LlamaDecoderLayer):
    """A layer with that attention."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings, attn_layer_type=PrefixLlamaAttention)


class PrefixLlamaForCausalLM(LlamaForCausalLM):
    """The whole model; its directory holds the prefix beside the weights."""

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix, layer_type=PrefixLlamaDecoderLayer)
        self.directory = vllm_config.model_config.model

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        """Load the weights, then the prefix."""
        loaded: set[str] = super().load_weights(weights)
        load_prefix(self.directory, [layer.self_attn.prefix_rows for layer in self.model.layers])
        return loaded
