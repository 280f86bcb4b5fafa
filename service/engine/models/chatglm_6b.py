"""ChatGLM-6B (first version) for vLLM.

The context (all up to <sop>) reads itself in both directions and stands at positions (i, 0); what
follows is causal and stands at (index of [gMASK], steps after the context). vLLM carries one
integer of 32 bits a token, in which its index and the context's length are packed. With [gMASK] as
the context's last token, which the service sees to, every token's place follows from that alone:
the model keeps no state of requests, and batches, preemption and resumption change nothing.
"""

import math
from collections.abc import Iterable
from typing import Any, ClassVar, cast

import torch
from torch import nn
from torch.nn.functional import gelu, scaled_dot_product_attention
from vllm.config import VllmConfig
from vllm.distributed import get_tensor_model_parallel_world_size
from vllm.forward_context import get_forward_context
from vllm.model_executor.layers.attention import Attention
from vllm.model_executor.layers.linear import ColumnParallelLinear, RowParallelLinear
from vllm.model_executor.layers.logits_processor import LogitsProcessor
from vllm.model_executor.layers.vocab_parallel_embedding import (
    ParallelLMHead,
    VocabParallelEmbedding,
)
from vllm.model_executor.models.interfaces import SupportsLoRA, SupportsMRoPE
from vllm.model_executor.models.utils import AutoWeightsLoader, maybe_prefix

from service.engine.models.prefixes import PrefixRows, load_prefix

BITS = 15  # of a packed position for the index: up to 32,767 tokens
LOW = (1 << BITS) - 1
# The published model scales its residuals for 28 layers, however many there are.
RESIDUAL = math.sqrt(2 * 28)

Angles = tuple[torch.Tensor, torch.Tensor]
Spans = list[tuple[int, int]]


def packing(tokens: list[int], sop: int) -> int:
    """What is added to each index of a prompt: the length of its context."""
    return (tokens.index(sop) if sop in tokens else 0) << BITS


def coordinates(packed: torch.Tensor, prefix: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Both coordinates of every token, from packed positions [tokens].

    The placeholders of a prefix count in an index and not in a position.
    """
    index, context = (packed & LOW) - prefix, (packed >> BITS) - prefix
    answer = index >= context
    place = torch.where(answer, context - 1, index).clamp(min=0)
    return place, torch.where(answer, index - context + 1, 0)


def context_spans(packed: torch.Tensor) -> Spans:
    """Where the contexts in this step's tokens begin and end.

    Raises RuntimeError when one is cut. The engine's settings (EngineRules) rule that out.
    """
    index, context = packed & LOW, packed >> BITS
    starts = ((index == 0) & (context > 0)).nonzero().flatten()
    lengths = context[starts]
    if int(lengths.sum()) != int((index < context).sum()):
        raise RuntimeError("a ChatGLM-6B context was split over several steps")
    return list(zip(starts.tolist(), (starts + lengths).tolist(), strict=True))


def angles_of(
    coordinates: tuple[torch.Tensor, torch.Tensor], head_dim: int, dtype: torch.dtype
) -> Angles:
    """Cosine and sine by which heads are turned, two of [tokens, 1, head_dim].

    The first coordinate turns the first half of a head, the second the other half. Frequencies
    are rounded to half precision in any case, as published; a model of 16 bits has its angles in
    half too, bf16 ones included, since its weights were trained with such.
    """
    half = head_dim // 2
    steps = torch.arange(0, half, 2, device=coordinates[0].device).float() / half
    exact = torch.float32 if dtype == torch.float32 else torch.float16
    frequencies = (1.0 / 10000**steps).half().to(exact)
    place, block = (axis.to(exact).unsqueeze(-1) * frequencies for axis in coordinates)
    angles = torch.cat((place, place, block, block), dim=-1).unsqueeze(1)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def turn(states: torch.Tensor, angles: Angles) -> torch.Tensor:
    """Rotate [tokens, heads, head_dim]: each half of a head by itself."""
    a, b, c, d = states.chunk(4, dim=-1)
    cosine, sine = angles
    return states * cosine + torch.cat((-b, a, -d, c), dim=-1) * sine


class ChatGLM6BAttention(nn.Module):
    """Attention whose query_key_value rows lie head by head: q, k, v of head 0, then of head 1.

    One plain column-parallel layer in that order, so that LoRA adapters fit; ranks share heads.
    """

    def __init__(self, config: Any, vllm_config: VllmConfig, prefix: str) -> None:
        super().__init__()
        self.head_dim = config.hidden_size // config.num_attention_heads
        heads = config.num_attention_heads // get_tensor_model_parallel_world_size()
        self.query_key_value = ColumnParallelLinear(
            config.hidden_size,
            3 * config.hidden_size,
            quant_config=vllm_config.quant_config,
            prefix=f"{prefix}.query_key_value",
        )
        self.dense = RowParallelLinear(
            config.hidden_size,
            config.hidden_size,
            quant_config=vllm_config.quant_config,
            prefix=f"{prefix}.dense",
        )
        self.attn = Attention(
            heads,
            self.head_dim,
            self.head_dim**-0.5,
            cache_config=vllm_config.cache_config,
            quant_config=vllm_config.quant_config,
            prefix=f"{prefix}.attn",
        )
        tokens = config.prefix_tokens
        self.prefix_rows = PrefixRows(tokens, heads, self.head_dim) if tokens else None

    def forward(
        self, hidden: torch.Tensor, index: torch.Tensor, angles: Angles, spans: Spans
    ) -> torch.Tensor:
        """[tokens, hidden] in and out; `index` [tokens] is each token's in its sequence."""
        mixed, _ = self.query_key_value(hidden)
        mixed = mixed.view(len(hidden), -1, 3 * self.head_dim)
        query, key, value = mixed.chunk(3, dim=-1)
        query, key, value = turn(query, angles), turn(key, angles), value.contiguous()
        if self.prefix_rows is not None:
            key, value = self.prefix_rows(index, key, value)
        # Causal attention writes the cache and is exact from <sop> on; then the contexts' own rows
        # are computed anew. They see nothing but each other, so this step's keys are all of it.
        out = self.attn(query, key, value).view(query.shape)
        for first, last in spans:
            # four dimensions: with three, torch has no fused kernel and holds every score at once
            q, k, v = (part[None, first:last].transpose(1, 2) for part in (query, key, value))
            out[first:last] = scaled_dot_product_attention(q, k, v)[0].transpose(0, 1)
        done, _ = self.dense(out.flatten(1))
        return done


class ChatGLM6BMLP(nn.Module):
    """Two layers with the tanh form of GELU between them."""

    def __init__(self, config: Any, vllm_config: VllmConfig, prefix: str) -> None:
        super().__init__()
        self.dense_h_to_4h = ColumnParallelLinear(
            config.hidden_size,
            config.inner_hidden_size,
            quant_config=vllm_config.quant_config,
            prefix=f"{prefix}.dense_h_to_4h",
        )
        self.dense_4h_to_h = RowParallelLinear(
            config.inner_hidden_size,
            config.hidden_size,
            quant_config=vllm_config.quant_config,
            prefix=f"{prefix}.dense_4h_to_h",
        )

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """[tokens, hidden] in and out."""
        inner, _ = self.dense_h_to_4h(hidden)
        done, _ = self.dense_4h_to_h(gelu(inner, approximate="tanh"))
        return done


class ChatGLM6BLayer(nn.Module):
    """One layer. What goes around a sublayer is its normalised input, scaled."""

    def __init__(self, config: Any, vllm_config: VllmConfig, prefix: str) -> None:
        super().__init__()
        size, epsilon = config.hidden_size, config.layernorm_epsilon
        self.input_layernorm = nn.LayerNorm(size, eps=epsilon)
        self.attention = ChatGLM6BAttention(config, vllm_config, f"{prefix}.attention")
        self.post_attention_layernorm = nn.LayerNorm(size, eps=epsilon)
        self.mlp = ChatGLM6BMLP(config, vllm_config, f"{prefix}.mlp")

    def forward(self, hidden: torch.Tensor, *attention: Any) -> torch.Tensor:
        """[tokens, hidden] in and out; the rest is for the attention."""
        normed = self.input_layernorm(hidden)
        hidden = normed * RESIDUAL + self.attention(normed, *attention)
        normed = self.post_attention_layernorm(hidden)
        return normed * RESIDUAL + self.mlp(normed)


class ChatGLM6BModel(nn.Module):
    """Embeddings and layers, under the checkpoint's own names."""

    def __init__(self, vllm_config: VllmConfig, prefix: str) -> None:
        super().__init__()
        config = vllm_config.model_config.hf_config
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.prefix_tokens = config.prefix_tokens
        self.word_embeddings = VocabParallelEmbedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(
            ChatGLM6BLayer(config, vllm_config, f"{prefix}.layers.{number}")
            for number in range(config.num_hidden_layers)
        )
        self.final_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layernorm_epsilon)

    def forward(self, hidden: torch.Tensor, packed: torch.Tensor) -> torch.Tensor:
        """Embedded tokens [tokens, hidden] and their packed positions [tokens] to states."""
        places = coordinates(packed, self.prefix_tokens)
        angles = angles_of(places, self.head_dim, hidden.dtype)
        index, spans = packed & LOW, _spans_of_step(packed)
        for layer in self.layers:
            hidden = layer(hidden, index, angles, spans)
        return self.final_layernorm(hidden)


def _spans_of_step(packed: torch.Tensor) -> Spans:
    """The contexts of this step; none while vLLM warms up or decodes only."""
    metadata = get_forward_context().attn_metadata
    if metadata is None:
        return []
    some = next(iter(metadata.values()))
    if some.max_query_len == 1:  # a context of one token, [gMASK] alone, sees itself either way
        return []
    return context_spans(packed[: some.num_actual_tokens])  # beyond it rows are stale padding


class ChatGLM6BForConditionalGeneration(nn.Module, SupportsLoRA, SupportsMRoPE):
    """ChatGLM-6B with its output layer."""

    packed_modules_mapping: ClassVar[dict[str, list[str]]] = {}

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__()
        self.config = vllm_config.model_config.hf_config
        self.directory = vllm_config.model_config.model
        self.transformer = ChatGLM6BModel(vllm_config, maybe_prefix(prefix, "transformer"))
        self.lm_head = ParallelLMHead(
            self.config.vocab_size,
            self.config.hidden_size,
            quant_config=vllm_config.quant_config,
            prefix=maybe_prefix(prefix, "lm_head"),
        )
        if self.config.tie_word_embeddings:
            self.lm_head = self.lm_head.tie_weights(self.transformer.word_embeddings)
        self.logits_processor = LogitsProcessor(self.config.vocab_size)

    def get_mrope_input_positions(
        self, input_tokens: list[int], mm_features: list[Any]
    ) -> tuple[torch.Tensor, int]:
        """Packed positions of a prompt [3, tokens], and what to add to an index afterwards."""
        more = packing(input_tokens, self.config.bos_token_id)
        return (torch.arange(len(input_tokens)) + more).expand(3, -1), more

    def embed_input_ids(self, input_ids: torch.Tensor) -> torch.Tensor:
        """[tokens] to [tokens, hidden]."""
        return self.transformer.word_embeddings(input_ids)

    def forward(
        self,
        input_ids: torch.Tensor,
        positions: torch.Tensor,
        intermediate_tensors: Any = None,
        inputs_embeds: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Tokens of one step and their packed positions [3, tokens] to states."""
        hidden = self.embed_input_ids(input_ids) if inputs_embeds is None else inputs_embeds
        return self.transformer(hidden, positions[0])

    def compute_logits(self, hidden_states: torch.Tensor) -> torch.Tensor | None:
        """States to logits over the vocabulary."""
        return self.logits_processor(self.lm_head, hidden_states)

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        """Load the checkpoint's tensors by their own names, then the prefix if there is one."""
        loaded: set[str] = AutoWeightsLoader(self).load_weights(weights)
        if self.config.prefix_tokens:
            layers = (cast(ChatGLM6BLayer, layer) for layer in self.transformer.layers)
            load_prefix(self.directory, [cast(Any, one.attention.prefix_rows) for one in layers])
        return loaded
