"""ChatGLM-6B (first version) as a transformers model: training, generation, P-tuning prefixes.

Tensor names are the published checkpoint's, so that its adapters fit. Written from the published
model's behaviour, which tests/golden/chatglm-6b records.
"""

import math
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn.functional import gelu, scaled_dot_product_attention
from transformers import Cache, DynamicCache, GenerationMixin, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from training.chatglm.configuration import ChatGLM6BConfig
from training.chatglm.positions import context_lengths, position_ids, visible
from training.chatglm.prefix import Prefix

# The published model scales its residuals for 28 layers, however many there are.
RESIDUAL = math.sqrt(2 * 28)

Angles = tuple[torch.Tensor, torch.Tensor]


def rotary(positions: torch.Tensor, head_dim: int, dtype: torch.dtype) -> Angles:
    """Cosine and sine by which heads are turned: two of [rows, 1, tokens, head_dim].

    `positions` [rows, 2, tokens]: the first coordinate turns the first half of a head, the second
    the other half. The frequencies are rounded to half precision in any case, as published; a
    model of 16 bits also has its angles in half, bf16 ones included: its weights were trained so.
    """
    half = head_dim // 2
    steps = torch.arange(0, half, 2, device=positions.device).float() / half
    exact = torch.float32 if dtype == torch.float32 else torch.float16
    frequencies = (1.0 / 10000**steps).half().to(exact)
    angles = positions.to(exact).unsqueeze(-1) * frequencies  # [rows, 2, tokens, half / 2]
    with torch.autocast(positions.device.type, enabled=False):  # a CPU's knows no half
        angles = torch.cat((angles, angles), dim=-1)
        both = torch.cat((angles[:, 0], angles[:, 1]), dim=-1).unsqueeze(1)
    return both.cos().to(dtype), both.sin().to(dtype)


def rotate(states: torch.Tensor, angles: Angles) -> torch.Tensor:
    """Rotate [rows, heads, tokens, head_dim]: each half of a head by itself."""
    a, b, c, d = states.chunk(4, dim=-1)
    cosine, sine = angles
    return states * cosine + torch.cat((-b, a, -d, c), dim=-1) * sine


class ChatGLM6BAttention(nn.Module):
    """Attention whose query_key_value rows lie head by head: q, k, v of head 0, then of head 1."""

    def __init__(self, config: ChatGLM6BConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.head_dim = config.head_dim
        self.query_key_value = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(
        self,
        hidden: torch.Tensor,
        angles: Angles,
        mask: torch.Tensor,
        cache: Cache | None,
        prefix: torch.Tensor | None,
    ) -> torch.Tensor:
        """[rows, tokens, hidden] in and out; `prefix` [2, heads, P, head_dim] goes first."""
        rows, tokens, _ = hidden.shape
        mixed = self.query_key_value(hidden).view(rows, tokens, -1, 3 * self.head_dim)
        query, key, value = mixed.transpose(1, 2).chunk(3, dim=-1)
        query, key = rotate(query, angles), rotate(key, angles)
        if prefix is not None:
            before = prefix.to(key.dtype).unsqueeze(1).expand(-1, rows, -1, -1, -1)
            key, value = torch.cat((before[0], key), dim=2), torch.cat((before[1], value), dim=2)
        if cache is not None:
            key, value = cache.update(key, value, self.layer)
        out = scaled_dot_product_attention(query, key, value.to(query.dtype), attn_mask=mask)
        return self.dense(out.transpose(1, 2).reshape(rows, tokens, -1))


class ChatGLM6BMLP(nn.Module):
    """Two layers with the tanh form of GELU between them."""

    def __init__(self, config: ChatGLM6BConfig) -> None:
        super().__init__()
        self.dense_h_to_4h = nn.Linear(config.hidden_size, config.inner_hidden_size)
        self.dense_4h_to_h = nn.Linear(config.inner_hidden_size, config.hidden_size)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """[rows, tokens, hidden] in and out."""
        inner = gelu(self.dense_h_to_4h(hidden), approximate="tanh")
        return self.dense_4h_to_h(inner)


class ChatGLM6BLayer(GradientCheckpointingLayer):
    """One layer. What goes around a sublayer is its normalised input, scaled."""

    def __init__(self, config: ChatGLM6BConfig, layer: int) -> None:
        super().__init__()
        size, epsilon = config.hidden_size, config.layernorm_epsilon
        self.input_layernorm = nn.LayerNorm(size, eps=epsilon)
        self.attention = ChatGLM6BAttention(config, layer)
        self.post_attention_layernorm = nn.LayerNorm(size, eps=epsilon)
        self.mlp = ChatGLM6BMLP(config)

    def forward(self, hidden: torch.Tensor, *attention: Any) -> torch.Tensor:
        """[rows, tokens, hidden] in and out; the rest is for the attention."""
        normed = self.input_layernorm(hidden)
        hidden = normed * RESIDUAL + self.attention(normed, *attention)
        normed = self.post_attention_layernorm(hidden)
        return normed * RESIDUAL + self.mlp(normed)


class ChatGLM6BPreTrainedModel(PreTrainedModel):
    """What transformers must know to load, initialise and wrap the model."""

    config_class = ChatGLM6BConfig
    base_model_prefix = "transformer"
    _input_embed_layer = "word_embeddings"
    supports_gradient_checkpointing = True
    _no_split_modules: ClassVar[list[str]] = ["ChatGLM6BLayer"]
    _skip_keys_device_placement: ClassVar[list[str]] = ["past_key_values"]
    _supports_sdpa = True


class ChatGLM6BModel(ChatGLM6BPreTrainedModel):
    """Embeddings and layers. A P-tuning `prefix` may be set after loading."""

    def __init__(self, config: ChatGLM6BConfig) -> None:
        super().__init__(config)
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        layers = range(config.num_hidden_layers)
        self.layers = nn.ModuleList(ChatGLM6BLayer(config, layer) for layer in layers)
        self.final_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layernorm_epsilon)
        self.prefix: Prefix | None = None
        self.gradient_checkpointing = False
        self.post_init()

    def positions(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None
    ) -> torch.Tensor:
        """Both coordinates of every token of whole rows: [rows, 2, tokens]."""
        marks = (getattr(self.config, f"{name}_token_id") for name in ("bos", "gmask", "mask"))
        return position_ids(input_ids, attention_mask, *marks)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
    ) -> BaseModelOutputWithPast:
        """[rows, tokens] ids to states.

        The first call must hold each row's whole context; later ones need their `position_ids`
        [rows, 2, tokens]. `attention_mask` [rows, all tokens so far] is 0 on padding.
        """
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        past = past_key_values.get_seq_length() if past_key_values is not None else 0
        if position_ids is None:
            position_ids = self.positions(input_ids, attention_mask)
        angles = rotary(position_ids, self.config.head_dim, self.dtype)
        prefixes = self._prefixes(past)
        mask = self._mask(input_ids, attention_mask, past)
        hidden = self.word_embeddings(input_ids)
        for layer, prefix in zip(self.layers, prefixes, strict=True):
            hidden = layer(hidden, angles, mask, past_key_values, prefix)
        hidden = self.final_layernorm(hidden)
        return BaseModelOutputWithPast(last_hidden_state=hidden, past_key_values=past_key_values)

    def _prefixes(self, past: int) -> list[torch.Tensor | None]:
        """Each layer's part of the prefix, which goes before the first token only."""
        if self.prefix is None or past:
            return [None] * len(self.layers)
        prefix = self.prefix()
        return [prefix[2 * number : 2 * number + 2] for number in range(len(self.layers))]

    def _mask(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None, past: int
    ) -> torch.Tensor:
        rows, tokens = input_ids.shape
        before = self.prefix.tokens if self.prefix is not None else 0
        if not past:
            contexts = context_lengths(input_ids, self.config.bos_token_id)
            mask = visible(contexts, tokens, attention_mask)
        else:
            earlier = past - before
            mask = torch.ones(tokens, earlier + tokens, dtype=torch.bool, device=self.device)
            mask = mask.tril(earlier).expand(rows, 1, -1, -1)
            if attention_mask is not None:
                mask = mask & attention_mask.bool()[:, None, None]
        return nn.functional.pad(mask, (before, 0), value=True)


class ChatGLM6BForConditionalGeneration(ChatGLM6BPreTrainedModel, GenerationMixin):
    """ChatGLM-6B with its output layer."""

    _tied_weights_keys: ClassVar[dict[str, str]] = {
        "lm_head.weight": "transformer.word_embeddings.weight"
    }

    def __init__(self, config: ChatGLM6BConfig) -> None:
        super().__init__(config)
        self.transformer = ChatGLM6BModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def prepare_inputs_for_generation(self, input_ids: torch.Tensor, **kwargs: Any) -> Any:
        """What `forward` takes at the next step; positions come from the whole rows."""
        positions = self.transformer.positions(input_ids, kwargs.get("attention_mask"))
        kwargs["position_ids"] = positions
        return super().prepare_inputs_for_generation(input_ids, **kwargs)

    def forward(  # noqa: PLR0913  (what transformers calls it with)
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """[rows, tokens] ids to logits [rows, tokens kept, vocabulary]; see ChatGLM6BModel."""
        outputs = self.transformer(
            input_ids, attention_mask, position_ids, past_key_values, use_cache
        )
        kept = logits_to_keep
        columns = slice(-kept, None) if isinstance(kept, int) else kept
        logits = self.lm_head(outputs.last_hidden_state[:, columns])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits, labels, vocab_size=self.config.vocab_size)
        return CausalLMOutputWithPast(
            loss=loss, logits=logits, past_key_values=outputs.past_key_values
        )
