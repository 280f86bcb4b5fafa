"""Int4 directories as plain ones, by compressed-tensors' own decompressor."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from compressed_tensors.compressors import PackedQuantizationCompressor
from compressed_tensors.quantization import QuantizationConfig, QuantizationScheme
from safetensors.torch import save_file

from tests.models import weights

PARTS = ("weight_packed", "weight_scale", "weight_shape")


def scheme_of(directory: Path) -> QuantizationScheme:
    """What config.json says, as the library understands it; it refuses unknown keys."""
    config = json.loads((directory / "config.json").read_text())["quantization_config"]
    [scheme] = QuantizationConfig(**config).config_groups.values()
    return scheme


def layer_names(directory: Path) -> list[str]:
    """The layers that are quantised."""
    packed = f".{PARTS[0]}"
    return [n.removesuffix(packed) for n in weights(directory) if n.endswith(packed)]


def decompressed(directory: Path) -> dict[str, torch.Tensor]:
    """The quantised layers' weights by name, in fp32."""
    stored, scheme = weights(directory), scheme_of(directory)
    made = {}
    for layer in layer_names(directory):
        parts: dict[str, Any] = {name: stored[f"{layer}.{name}"] for name in PARTS}
        parts["weight_scale"] = parts["weight_scale"].float()
        parts["weight_shape"] = torch.Size(parts["weight_shape"].tolist())
        made[f"{layer}.weight"] = PackedQuantizationCompressor.decompress(parts, scheme)["weight"]
    return made


def write_dequantised(directory: Path, output: Path) -> Path:
    """Write the model that `directory` stands for, its weights plain ones."""
    shutil.copytree(directory, output, ignore=shutil.ignore_patterns("*.safetensors*"))
    config = json.loads((directory / "config.json").read_text())
    del config["quantization_config"]
    (output / "config.json").write_text(json.dumps(config))
    plain = {n: v for n, v in weights(directory).items() if not n.endswith(PARTS)}
    tensors = plain | decompressed(directory)
    save_file(tensors, output / "model.safetensors", metadata={"format": "pt"})
    return output
