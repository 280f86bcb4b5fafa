"""ChatGLM2's and ChatGLM3's directories as the hub has them, small and random."""

import json
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.training.convert.chatglm_release import CODE, write_bins

if TYPE_CHECKING:
    import torch

TEXT = """\
请从下面的文本中抽取实体：高血压，糖尿病。感冒了怎么办？多喝水。发烧三天，咳嗽，去医院看医生。
[Round 1] 问：头痛 答：多休息 the patient has a headache    and takes  two tablets a day
"""
PIECES = 440
CONFIG: dict[str, Any] = {
    "_name_or_path": "somewhere",
    "model_type": "chatglm",
    "architectures": ["ChatGLMModel"],
    "auto_map": {
        "AutoConfig": "configuration_chatglm.ChatGLMConfig",
        "AutoModelForCausalLM": "modeling_chatglm.ChatGLMForConditionalGeneration",
    },
    **{"add_bias_linear": False, "add_qkv_bias": True, "rmsnorm": True, "post_layer_norm": True},
    **{"apply_residual_connection_post_layernorm": False, "original_rope": True},
    **{"multi_query_attention": True, "multi_query_group_num": 2, "num_attention_heads": 4},
    **{"hidden_size": 128, "kv_channels": 32, "ffn_hidden_size": 96, "num_layers": 2},
    **{"layernorm_epsilon": 1e-05, "padded_vocab_size": PIECES + 12, "seq_length": 512},
    **{"torch_dtype": "float32", "tie_word_embeddings": False},
    **{"eos_token_id": 2, "pad_token_id": 0},
}
ROLES = 'role_special_tokens = ["<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"]\n'


def write_release(folder: Path, kind: str, files: int = 3, **changes: Any) -> Path:
    """Write a release of `kind` (chatglm2 or chatglm3), its config with `changes`.

    Random weights as .bin files with an index, tokenizer.model, and code that leaves a trace.
    """
    folder.mkdir()
    config = CONFIG | changes
    (folder / "config.json").write_text(json.dumps(config))
    write_bins(folder, random_tensors(config), files)
    for name in ("configuration", "modeling", "tokenization"):
        roles = ROLES if (kind, name) == ("chatglm3", "tokenization") else ""
        (folder / f"{name}_chatglm.py").write_text(CODE + roles)
    (folder / "tokenizer.model").write_bytes(sentencepiece_model())
    told = {"auto_map": {"AutoTokenizer": ["tokenization_chatglm.ChatGLMTokenizer", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    return folder


def random_tensors(config: dict[str, Any]) -> "dict[str, torch.Tensor]":
    """Return a checkpoint's tensors; large values, for clear winners among the logits."""
    import torch

    hidden, inner, head = (config[k] for k in ("hidden_size", "ffn_hidden_size", "kv_channels"))
    queries = config["num_attention_heads"] * head
    rows = queries + 2 * config["multi_query_group_num"] * head
    shapes: dict[str, tuple[int, ...]] = {
        "embedding.word_embeddings.weight": (config["padded_vocab_size"], hidden),
        "rotary_pos_emb.inv_freq": (head // 4,),
    }
    for n in range(config["num_layers"]):
        layer = {
            "input_layernorm.weight": (hidden,),
            "self_attention.query_key_value.weight": (rows, hidden),
            "self_attention.query_key_value.bias": (rows,),
            "self_attention.dense.weight": (hidden, queries),
            "post_attention_layernorm.weight": (hidden,),
            "mlp.dense_h_to_4h.weight": (2 * inner, hidden),
            "mlp.dense_4h_to_h.weight": (hidden, inner),
        }
        shapes |= {f"encoder.layers.{n}.{name}": shape for name, shape in layer.items()}
    shapes |= {"encoder.final_layernorm.weight": (hidden,)}
    shapes |= {"output_layer.weight": (config["padded_vocab_size"], hidden)}
    generator = torch.Generator().manual_seed(0)
    dtype = getattr(torch, config["torch_dtype"])
    return {
        f"transformer.{name}": (
            torch.randn(shape, generator=generator) * 0.2 + ("layernorm" in name)
        ).to(dtype)
        for name, shape in shapes.items()
    }


def sentencepiece_model(**options: Any) -> bytes:
    """Return a tokenizer.model of the releases' kind; `options` override the trainer's."""
    import sentencepiece

    model = BytesIO()
    settings: dict[str, Any] = {
        **{"model_type": "bpe", "vocab_size": PIECES, "character_coverage": 1.0},
        **{"byte_fallback": True, "split_digits": True, "normalization_rule_name": "identity"},
        **{"remove_extra_whitespaces": False, "allow_whitespace_only_pieces": True},
        **{"num_threads": 1, "minloglevel": 2},
    }
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT.split("\n") * 20), model_writer=model, **(settings | options)
    )
    return model.getvalue()
