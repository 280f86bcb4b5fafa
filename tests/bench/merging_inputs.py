"""A random fp16 LLaMA of a chosen depth and an adapter for it, written a few layers at a time."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

HIDDEN, INTER, VOCABULARY, RANK = 2048, 5632, 32000, 8
LAYERS = {"0.3B": 4, "1.26B": 22, "2.5B": 46}
LAYERS_A_SHARD = 3
PROJECTIONS = {
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.k_proj": (HIDDEN, HIDDEN),
    "self_attn.v_proj": (HIDDEN, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_proj": (INTER, HIDDEN),
    "mlp.up_proj": (INTER, HIDDEN),
    "mlp.down_proj": (HIDDEN, INTER),
}


def write(root: Path, layers: int) -> None:
    """Write base/ (the same values in every layer) and adapter/ below `root`."""
    import torch

    torch.manual_seed(0)
    (root / "base").mkdir(parents=True)
    (root / "adapter").mkdir()
    _write_base(root / "base", layers)
    _write_adapter(root / "adapter", layers)


def _write_base(directory: Path, layers: int) -> None:
    import torch
    from safetensors.torch import save_file

    layer = _layer()
    weight_map: dict[str, str] = {}
    for first in range(0, layers, LAYERS_A_SHARD):
        name = f"model-{first:05d}.safetensors"
        shard = {
            f"model.layers.{number}.{key}": values.clone()
            for number in range(first, min(first + LAYERS_A_SHARD, layers))
            for key, values in layer.items()
        }
        save_file(shard, directory / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(shard, name)
    embedding = (0.02 * torch.randn(VOCABULARY, HIDDEN)).half()
    ends = {"model.embed_tokens.weight": embedding, "lm_head.weight": embedding.clone()}
    ends["model.norm.weight"] = torch.ones(HIDDEN).half()
    save_file(ends, directory / "model-ends.safetensors", metadata={"format": "pt"})
    weight_map |= dict.fromkeys(ends, "model-ends.safetensors")
    index = json.dumps({"metadata": {}, "weight_map": weight_map})
    (directory / "model.safetensors.index.json").write_text(index)
    (directory / "config.json").write_text(json.dumps(_config(layers)))


def _layer() -> "dict[str, torch.Tensor]":
    import torch

    layer = {f"{name}.weight": 0.02 * torch.randn(shape) for name, shape in PROJECTIONS.items()}
    for norm in ("input_layernorm.weight", "post_attention_layernorm.weight"):
        layer[norm] = torch.ones(HIDDEN)
    return {name: values.half() for name, values in layer.items()}


def _config(layers: int) -> dict[str, object]:
    return {
        **{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "dtype": "float16"},
        **{"hidden_size": HIDDEN, "intermediate_size": INTER, "num_hidden_layers": layers},
        **{"num_attention_heads": 16, "num_key_value_heads": 16, "vocab_size": VOCABULARY},
        "tie_word_embeddings": False,
    }


def _write_adapter(directory: Path, layers: int) -> None:
    import torch
    from safetensors.torch import save_file

    pairs = {}
    for number in range(layers):
        for name, (rows, columns) in PROJECTIONS.items():
            key = f"base_model.model.model.layers.{number}.{name}.lora_"
            pairs[f"{key}A.weight"] = torch.randn(RANK, columns) / columns**0.5
            pairs[f"{key}B.weight"] = torch.randn(rows, RANK) * 1e-3
    save_file(pairs, directory / "adapter_model.safetensors")
    targets = [name.split(".")[1] for name in PROJECTIONS]
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": 32}
    config |= {"target_modules": targets, "inference_mode": True}
    (directory / "adapter_config.json").write_text(json.dumps(config))
