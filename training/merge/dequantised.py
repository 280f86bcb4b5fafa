"""A quantised model directory as a model in fp32: what its codes and scales stand for."""

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

import training.chatglm  # noqa: F401 - so that ChatGLM-6B is known
from training.errors import TrainingError
from training.merge.quantisation import SCALE, WEIGHT
from training.progress import hide_transformers_bars
from training.weights.directory import read_model
from training.weights.safetensors_stream import StoredTensor, read_bytes

DTYPES = {
    **{"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32},
    **{"I8": torch.int8, "F8_E4M3": torch.float8_e4m3fn},
}
HALF_A_STEP = {"I8": 0.5, "F8_E4M3": 2.0**-4}
"""What rounding moves at most: of a step of int8, of the value itself in fp8."""


@dataclass(frozen=True)
class Dequantised:
    """The model, and by how much quantising may have moved each of its quantised weights."""

    model: PreTrainedModel
    moved: dict[str, torch.Tensor]
    """[out, in] or [out, 1] by name."""


def load_dequantised(directory: Path) -> Dequantised:
    """Load the model whole, in fp32: 4 bytes of memory a parameter.

    Raises TrainingError where a tensor is missing or is none of the model's.
    """
    hide_transformers_bars()
    config = AutoConfig.from_pretrained(directory)
    del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    stored = read_model(directory)
    weights, moved = {}, {}
    for name, tensor in stored.items():
        if name.endswith(SCALE):
            continue
        value = _read(tensor).float()
        if tensor.dtype in HALF_A_STEP:
            scale = _read(stored[name.removesuffix(WEIGHT) + SCALE])
            value = value * scale
            size = scale if tensor.dtype == "I8" else value.abs()
            moved[name] = size * HALF_A_STEP[tensor.dtype]
        weights[name] = value
    missing, unexpected = model.load_state_dict(weights, strict=False)
    model.tie_weights()
    lost = {*missing} - {name for name in missing if config.tie_word_embeddings}
    if lost or unexpected:
        raise TrainingError(f"{directory} does not fit its class: {sorted(lost)}, {unexpected}")
    return Dequantised(model, moved)


def _read(tensor: StoredTensor) -> torch.Tensor:
    data = torch.from_numpy(read_bytes(tensor, 0, tensor.size))
    return data.view(DTYPES[tensor.dtype]).reshape(tensor.shape)
