"""Tiny random models and adapters, written to disk in a moment."""

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def tiny_llama(path: Path, seed: int = 0, dtype: str = "float32", **config: Any) -> Path:
    """Write a random LLaMA model directory without a tokenizer; `config` overrides its sizes.

    `max_shard_size` may be among them, as for save_pretrained.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    shards = {"max_shard_size": config.pop("max_shard_size", "5GB")}
    sizes = {
        **{"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48},
        **{"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2},
    }
    torch.manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(**(sizes | config)))
    model.to(getattr(torch, dtype)).save_pretrained(path, **shards)
    return path


def tiny_adapter(
    base: Path,
    path: Path,
    seed: int = 1,
    std: float = 0.05,
    rows: int | None = None,
    **lora: Any,
) -> Path:
    """Write a LoRA adapter for `base` as peft saves it, its trained values random with `std`.

    `rows` resizes the vocabulary first; the embeddings are then saved along, as peft does.
    """
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    # a copy: peft edits the lists in it
    settings = deepcopy({"r": 4, "lora_alpha": 8, "target_modules": PROJECTIONS} | lora)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if rows:
        model.resize_token_embeddings(rows, mean_resizing=False)
    model = get_peft_model(model, LoraConfig(**settings))
    torch.manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_" in name and "magnitude" not in name:
            torch.nn.init.normal_(parameter, std=std)
        elif parameter.requires_grad:
            parameter.data += std * torch.randn_like(parameter)
    model.save_pretrained(path, save_embedding_layers="auto" if rows else False)
    return path


def to_bin(directory: Path) -> Path:
    """Turn every safetensors file of a directory into a .bin of torch.save, as older ones are."""
    import torch
    from safetensors.torch import load_file

    for file in directory.glob("*.safetensors"):
        name = file.name.replace("model", "pytorch_model", not file.name.startswith("adapter"))
        torch.save(load_file(file), directory / name.replace(".safetensors", ".bin"))
        file.unlink()
    index = directory / "model.safetensors.index.json"
    if index.exists():
        text = index.read_text().replace('"model-', '"pytorch_model-')
        text = text.replace(".safetensors", ".bin")
        (directory / "pytorch_model.bin.index.json").write_text(text)
        index.unlink()
    return directory


def weights(directory: Path) -> "dict[str, torch.Tensor]":
    """Return all tensors of a model or adapter directory by name."""
    from safetensors.torch import load_file

    files = sorted(directory.glob("*.safetensors"))
    return {name: values for file in files for name, values in load_file(file).items()}


def edit_weights(file: Path, change: "Callable[[dict[str, torch.Tensor]], Any]") -> None:
    """Rewrite a safetensors file after `change` has worked on its tensors."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


def write_config(directory: Path, **config: Any) -> Path:
    """A model directory with nothing but a LLaMA's config.json."""
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps({"model_type": "llama", **config}))
    return directory


def edit_json(file: Path, **changes: Any) -> None:
    """Rewrite a JSON file with some keys changed."""
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
