"""A random fp16 LLaMA of a chosen depth and an adapter for it, written a few layers at a time."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

RANK = 8
LAYERS_A_SHARD = 3


@dataclass(frozen=True)
class Size:
    """What makes a LLaMA large or small."""

    layers: int
    hidden: int = 2048
    inner: int = 5632
    heads: int = 16
    vocabulary: int = 32000

    @property
    def projections(self) -> dict[str, tuple[int, int]]:
        """Shapes [out, in] of the layers that LoRA is on."""
        square, up = (self.hidden, self.hidden), (self.inner, self.hidden)
        return {
            **{f"self_attn.{name}_proj": square for name in "qkvo"},
            **{"mlp.gate_proj": up, "mlp.up_proj": up, "mlp.down_proj": up[::-1]},
        }


SIZES = {
    **{"0.3B": Size(4), "1.26B": Size(22), "2.5B": Size(46)},
    "7B": Size(32, hidden=4096, inner=11008, heads=32),  # LLaMA-7B's own
}


def write(root: Path, size: Size, adapters: int = 1) -> None:
    """Write base/ (the same values in every layer) and adapter-0/, adapter-1/ … below `root`."""
    import torch

    torch.manual_seed(0)
    (root / "base").mkdir(parents=True)
    _write_base(root / "base", size)
    for number in range(adapters):
        (root / f"adapter-{number}").mkdir()
        _write_adapter(root / f"adapter-{number}", size)


def _write_base(directory: Path, size: Size) -> None:
    import torch
    from safetensors.torch import save_file

    layer = _layer(size)
    weight_map: dict[str, str] = {}
    for first in range(0, size.layers, LAYERS_A_SHARD):
        name = f"model-{first:05d}.safetensors"
        shard = {
            f"model.layers.{number}.{key}": values.clone()
            for number in range(first, min(first + LAYERS_A_SHARD, size.layers))
            for key, values in layer.items()
        }
        save_file(shard, directory / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(shard, name)
    embedding = (0.02 * torch.randn(size.vocabulary, size.hidden)).half()
    ends = {"model.embed_tokens.weight": embedding, "lm_head.weight": embedding.clone()}
    ends["model.norm.weight"] = torch.ones(size.hidden).half()
    save_file(ends, directory / "model-ends.safetensors", metadata={"format": "pt"})
    weight_map |= dict.fromkeys(ends, "model-ends.safetensors")
    index = json.dumps({"metadata": {}, "weight_map": weight_map})
    (directory / "model.safetensors.index.json").write_text(index)
    (directory / "config.json").write_text(json.dumps(_config(size)))


def _layer(size: Size) -> "dict[str, torch.Tensor]":
    import torch

    layer = {
        f"{name}.weight": 0.02 * torch.randn(shape) for name, shape in size.projections.items()
    }
    for norm in ("input_layernorm.weight", "post_attention_layernorm.weight"):
        layer[norm] = torch.ones(size.hidden)
    return {name: values.half() for name, values in layer.items()}


def _config(size: Size) -> dict[str, object]:
    return {
        **{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "dtype": "float16"},
        **{"hidden_size": size.hidden, "intermediate_size": size.inner},
        **{"num_hidden_layers": size.layers, "vocab_size": size.vocabulary},
        **{"num_attention_heads": size.heads, "num_key_value_heads": size.heads},
        "tie_word_embeddings": False,
    }


def _write_adapter(directory: Path, size: Size) -> None:
    import torch
    from safetensors.torch import save_file

    pairs = {}
    for number in range(size.layers):
        for name, (rows, columns) in size.projections.items():
            key = f"base_model.model.model.layers.{number}.{name}.lora_"
            pairs[f"{key}A.weight"] = torch.randn(RANK, columns) / columns**0.5
            pairs[f"{key}B.weight"] = torch.randn(rows, RANK) * 1e-3
    save_file(pairs, directory / "adapter_model.safetensors")
    targets = [name.split(".")[1] for name in size.projections]
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": 32}
    config |= {"target_modules": targets, "inference_mode": True}
    (directory / "adapter_config.json").write_text(json.dumps(config))
