"""A tiny LLaMA as a GGUF file, as llama.cpp's converter writes it."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch

NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def write_gguf(model: Any, spm: Path, path: Path, kind: str = "F32", **fields: str) -> Path:
    """Write the LlamaForCausalLM `model` with the tokenizer `spm`; matrices stored as `kind`."""
    config, state = model.config, model.state_dict()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    _add_tokenizer(writer, spm)
    for key, value in fields.items():
        writer.add_string(f"tokenizer.{key}", value)
    _add(writer, "token_embd.weight", state["model.embed_tokens.weight"], kind)
    _add(writer, "output_norm.weight", state["model.norm.weight"], kind)
    _add(writer, "output.weight", state["lm_head.weight"], kind)
    for number in range(config.num_hidden_layers):
        for mine, theirs in NAMES.items():
            values = state[f"model.layers.{number}.{theirs}.weight"]
            if mine in ("attn_q", "attn_k"):
                values = _neighbours(values, config.head_dim)
            _add(writer, f"blk.{number}.{mine}.weight", values, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tokenizer(writer: Any, spm: Path) -> None:
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(spm.read_bytes())
    writer.add_tokenizer_model("llama")
    writer.add_token_list([piece.piece.encode() for piece in proto.pieces])
    writer.add_token_scores([piece.score for piece in proto.pieces])
    writer.add_token_types([piece.type for piece in proto.pieces])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_space_prefix(proto.normalizer_spec.add_dummy_prefix)


def _add(writer: Any, name: str, values: torch.Tensor, kind: str) -> None:
    array = values.float().numpy()
    if array.ndim == 1 or kind == "F32":
        writer.add_tensor(name, np.ascontiguousarray(array))
        return
    stored = gguf.GGMLQuantizationType[kind]
    writer.add_tensor(name, gguf.quantize(array, stored), raw_dtype=stored)


def _neighbours(rows: torch.Tensor, head: int) -> torch.Tensor:
    """llama.cpp keeps Meta's order: rotary pair i of a head in rows 2i and 2i + 1."""
    heads = rows.view(-1, 2, head // 2, rows.shape[1])
    return heads.transpose(1, 2).reshape(rows.shape)
