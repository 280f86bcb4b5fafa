"""The settings of a LoRA adapter as peft writes them, honoured or refused by name."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from training.errors import TrainingError
from training.files import read_json

# Settings that do not change what merging computes, or that it honours. Any other setting that
# is switched on (use_dora, fan_in_fan_out, modules_to_save, lora_bias, …) is refused by name.
HONOURED = {"peft_type", "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "bias"}
HARMLESS = {
    *("task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision"),
    *("inference_mode", "target_modules", "exclude_modules", "layers_to_transform"),
    *("layers_pattern", "lora_dropout", "init_lora_weights", "merge_weights", "runtime_config"),
    *("megatron_core", "loftq_config", "eva_config", "corda_config", "lora_ga_config"),
    *("qalora_group_size", "ensure_weight_tying"),
}
# Every other initialisation (pissa, olora, corda, loftq, …) trains against a changed base.
PLAIN_INITS = (True, False, None, "gaussian", "eva", "orthogonal")


def read_settings(path: Path) -> dict[str, Any]:
    """Return adapter_config.json at `path`.

    Raises:
        TrainingError: a field is missing or malformed, or a setting is not supported.
    """
    config = read_json(path)
    for field in ("peft_type", "r", "lora_alpha"):
        if config.get(field) is None:
            raise TrainingError(f"{path} lacks {field}: is it an adapter saved by peft?")
    _check_supported(path, config)
    _check_numbers(path, config)
    return config


def rank(module: str, config: Mapping[str, Any]) -> int:
    """Return the rank configured for the module of that dotted name."""
    return int(_by_pattern(module, config.get("rank_pattern"), config["r"]))


def scale(module: str, config: Mapping[str, Any]) -> float:
    """Return the factor of B @ A for the module of that dotted name."""
    alpha = float(_by_pattern(module, config.get("alpha_pattern"), config["lora_alpha"]))
    divisor = rank(module, config)
    return alpha / (math.sqrt(divisor) if config.get("use_rslora") else divisor)


def _by_pattern(module: str, pattern: Mapping[str, Any] | None, default: Any) -> Any:
    """Return the value of the first pattern that matches a suffix of whole names, as peft does."""
    for key, value in (pattern or {}).items():
        if re.match(rf"(.*\.)?({key})$", module):
            return value
    return default


def _check_supported(path: Path, config: Mapping[str, Any]) -> None:
    if config["peft_type"] != "LORA":
        raise TrainingError(f"{path}: peft_type {config['peft_type']} is not supported, only LORA")
    for field in sorted(config.keys() - HONOURED - HARMLESS):
        if config[field]:
            raise TrainingError(f"{path}: {field} is not supported by merging")
    if config.get("bias", "none") != "none":
        raise TrainingError(f"{path}: bias={config['bias']} is not supported, only none")
    if config.get("init_lora_weights") not in PLAIN_INITS:
        raise TrainingError(
            f"{path}: init_lora_weights={config['init_lora_weights']} changes the base itself:"
            " let peft convert the adapter to plain LoRA when saving it"
        )


def _check_numbers(path: Path, config: Mapping[str, Any]) -> None:
    patterns = {key: config.get(key) or {} for key in ("rank_pattern", "alpha_pattern")}
    for key, value in patterns.items():
        if not isinstance(value, dict) or not all(map(_is_regex, value)):
            raise TrainingError(f"{path}: {key} must map regular expressions to numbers")
    for value in (config["r"], *patterns["rank_pattern"].values()):
        if type(value) is not int or value < 1:
            raise TrainingError(f"{path}: a rank must be a whole number above 0, not {value!r}")
    for value in (config["lora_alpha"], *patterns["alpha_pattern"].values()):
        if type(value) not in (int, float) or not math.isfinite(value):
            raise TrainingError(f"{path}: lora_alpha must be a number, not {value!r}")


def _is_regex(text: str) -> bool:
    try:
        re.compile(text)
    except re.error:
        return False
    return True
