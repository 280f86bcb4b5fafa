"""ChatGLM2's and ChatGLM3's checkpoint under the names of transformers' Glm.

Names, shapes and settings are those of the original modeling_chatglm.py. Glm turns the same rotary
pairs (neighbours, in the first half of a head), so no row changes its place within its tensor.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from training.convert.chatglm.chatglm2_kind import CHATGLM3, Kind
from training.convert.chatglm.refusals import (
    again,
    check_tensors,
    read_size,
    refuse_prefix,
    refuse_quantised,
)
from training.errors import TrainingError
from training.files import JsonObject
from training.weights.directory import read_model
from training.weights.safetensors_stream import StoredTensor, Tensors

COMPUTED = "rotary_pos_emb.inv_freq"  # not a weight
THETA = 10000.0
QKV = "self_attention.query_key_value"
OUTER = {
    "transformer.embedding.word_embeddings.weight": "model.embed_tokens.weight",
    "transformer.encoder.final_layernorm.weight": "model.norm.weight",
    "transformer.output_layer.weight": "lm_head.weight",
}
LAYER = {
    "input_layernorm": "input_layernorm",
    "self_attention.dense": "self_attn.o_proj",
    "post_attention_layernorm": "post_attention_layernorm",
    "mlp.dense_h_to_4h": "mlp.gate_up_proj",
    "mlp.dense_4h_to_h": "mlp.down_proj",
}
# What Glm computes, and what the original computed when config.json leaves the key out.
FIXED: dict[str, tuple[bool, bool]] = {
    "rmsnorm": (True, True),
    "post_layer_norm": (True, True),
    "multi_query_attention": (True, False),
    "original_rope": (True, True),
    "add_bias_linear": (False, False),
    "apply_residual_connection_post_layernorm": (False, False),
    "interleaved_qkv": (False, False),
}


@dataclass(frozen=True)
class ChatGLM2Sizes:
    """What config.json says of the model."""

    vocab: int
    hidden: int
    inner: int
    layers: int
    heads: int
    groups: int
    """Heads of keys and of values."""
    head: int
    context: int
    bias: bool
    """Whether queries, keys and values have one."""

    @property
    def split(self) -> dict[str, int]:
        """Rows of query_key_value, in their order: queries, keys, values."""
        shared = self.groups * self.head
        return {"q_proj": self.heads * self.head, "k_proj": shared, "v_proj": shared}


def read_chatglm2(source: Path, config: JsonObject, kind: Kind) -> tuple[ChatGLM2Sizes, Tensors]:
    """Return the sizes and the tensors by Glm's names; each lies where it lay, named as it was.

    Raises TrainingError for settings that Glm does not compute; a quantised or P-tuned model; files
    missing or damaged; a tensor missing, unexpected or misshapen.
    """
    sizes = _read_sizes(source / "config.json", config, kind)
    found = {n: t for n, t in read_model(source).items() if not n.endswith(COMPUTED)}
    refuse_quantised(source, config, found, kind.hub)
    _refuse_prefixes(source / "config.json", config, found, kind)
    model = f"{kind.name} of {sizes.layers} layers"
    check_tensors(source, found, dict(_expected(sizes)), model, kind.hub)
    return sizes, dict(_renamed(found, sizes))


def rope(path: Path, config: JsonObject, kind: Kind) -> dict[str, Any]:
    """Return transformers' rope_parameters for the config that was read from `path`.

    rope_ratio has two meanings: ChatGLM2-6B-32K divides positions by it, ChatGLM3-6B-32K multiplies
    the base.
    Raises TrainingError when rope_ratio is not a number above 0.
    """
    ratio = config.get("rope_ratio", 1)
    if type(ratio) not in (int, float) or ratio <= 0:
        raise TrainingError(
            f"{path}: rope_ratio must be a number above 0, not {ratio!r}: {again(kind.hub)}"
        )
    shared = {"rope_theta": THETA, "partial_rotary_factor": 0.5}
    if kind is CHATGLM3 or ratio == 1:
        return shared | {"rope_type": "default", "rope_theta": THETA * ratio}
    return shared | {"rope_type": "linear", "factor": float(ratio)}


def _read_sizes(path: Path, config: JsonObject, kind: Kind) -> ChatGLM2Sizes:
    for key, (computed, default) in FIXED.items():
        if (value := config.get(key, default)) is not computed:
            raise TrainingError(
                f"{path}: {key} is {value!r}; only {computed!r} is supported, as {kind.hub} has it:"
                " convert that"
            )

    def size(key: str) -> int:
        return read_size(path, config, key, kind.hub)

    heads, groups = size("num_attention_heads"), size("multi_query_group_num")
    if heads % groups:
        raise TrainingError(
            f"{path}: multi_query_group_num {groups} does not divide {heads} heads:"
            f" {again(kind.hub)}"
        )
    return ChatGLM2Sizes(
        *(size("padded_vocab_size"), size("hidden_size"), size("ffn_hidden_size")),
        *(size("num_layers"), heads, groups, size("kv_channels"), size("seq_length")),
        bias=bool(config.get("add_qkv_bias", False)),
    )


def _refuse_prefixes(path: Path, config: JsonObject, found: Tensors, kind: Kind) -> None:
    remedy = f"prefixes of {kind.name} cannot be taken over: convert {kind.hub} and train on that"
    refuse_prefix(found, remedy)
    if config.get("pre_seq_len"):
        raise TrainingError(f"{path}: pre_seq_len is set, this is a P-tuned model: {remedy}")


def _expected(sizes: ChatGLM2Sizes) -> Iterator[tuple[str, tuple[int, ...]]]:
    hidden, inner, rows = sizes.hidden, sizes.inner, sum(sizes.split.values())
    table = (sizes.vocab, hidden)
    yield from zip(OUTER, (table, (hidden,), table), strict=True)
    layer = {
        "input_layernorm.weight": (hidden,),
        f"{QKV}.weight": (rows, hidden),
        **({f"{QKV}.bias": (rows,)} if sizes.bias else {}),
        "self_attention.dense.weight": (hidden, sizes.split["q_proj"]),
        "post_attention_layernorm.weight": (hidden,),
        "mlp.dense_h_to_4h.weight": (2 * inner, hidden),
        "mlp.dense_4h_to_h.weight": (hidden, inner),
    }
    for number in range(sizes.layers):
        for name, shape in layer.items():
            yield f"transformer.encoder.layers.{number}.{name}", shape


def _renamed(found: Tensors, sizes: ChatGLM2Sizes) -> Iterator[tuple[str, StoredTensor]]:
    for name, tensor in found.items():
        if name in OUTER:
            yield OUTER[name], tensor
            continue
        number, _, rest = name.removeprefix("transformer.encoder.layers.").partition(".")
        module, _, end = rest.rpartition(".")
        if module == QKV:
            for part, rows in _rows(tensor, sizes.split):
                yield f"model.layers.{number}.self_attn.{part}.{end}", rows
        else:
            yield f"model.layers.{number}.{LAYER[module]}.{end}", tensor


def _rows(tensor: StoredTensor, split: Mapping[str, int]) -> Iterator[tuple[str, StoredTensor]]:
    """Bands of rows are runs of bytes, and so tensors of their own."""
    width, start = tensor.size // tensor.shape[0], tensor.start
    for part, rows in split.items():
        shape = (rows, *tensor.shape[1:])
        yield part, replace(tensor, shape=shape, start=start, size=rows * width)
        start += rows * width
