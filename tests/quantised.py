"""The quantization_config of checkpoints that people have on disk, by scheme."""

from typing import Any


def compressed(
    bits: int, kind: str = "int", activations: int | None = None, **weights: Any
) -> dict[str, Any]:
    """As llm-compressor writes it."""
    inputs = activations and {"num_bits": activations, "type": kind, "dynamic": True}
    group = {
        "targets": ["Linear"],
        "weights": {"num_bits": bits, "type": kind, "symmetric": True, **weights},
        "input_activations": inputs,
    }
    return {"quant_method": "compressed-tensors", "config_groups": {"group_0": group}}


def two_groups() -> dict[str, Any]:
    """8 bits for some layers, 4 for the others."""
    one, other = compressed(8, activations=8), compressed(4, group_size=128)
    groups = {"group_0": one["config_groups"], "group_1": other["config_groups"]}
    return one | {"config_groups": {name: group["group_0"] for name, group in groups.items()}}


INT8 = compressed(8, activations=8, strategy="channel")
REDUCED_INT8 = INT8 | {"reduce_range": True}
FP8 = compressed(8, "float", 8, strategy="channel")
FP8_BLOCKS = {"quant_method": "fp8", "weight_block_size": [128, 128], "fmt": "e4m3"}
INT4 = {
    "W4A16": compressed(4, group_size=128),
    "AWQ": {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True},
    "GPTQ": {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False},
    "old AWQ": {"quant_method": "awq", "w_bit": 4, "q_group_size": 128},
}
NO_KERNEL = {
    "W8A16": compressed(8),
    "W4A8": compressed(4, activations=8),
    "NVFP4": compressed(4, "float", 4),
    "GPTQ, 8 bits": {"quant_method": "gptq", "bits": 8},
    "GPTQ, 3 bits": {"quant_method": "gptq", "bits": 3},
    "bitsandbytes": {"quant_method": "bitsandbytes", "load_in_4bit": True},
    "torchao": {"quant_method": "torchao"},
    "MXFP4": {"quant_method": "mxfp4"},
    "mixed": two_groups(),
}
