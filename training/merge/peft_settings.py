"""The settings of a LoRA adapter as peft writes them, honoured or refused by name."""

import math
import re
from pathlib import Path
from typing import Any

from training.errors import TrainingError
from training.files import JsonObject, read_json

# Settings that merging follows.
HONOURED = {
    *("peft_type", "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "bias"),
    *("use_dora", "init_r", "modules_to_save", "init_lora_weights", "lora_bias"),
    "trainable_token_indices",
}
# Settings that decide how an adapter is trained, or what it holds: merging sees that itself.
HARMLESS = {
    *("task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision"),
    *("inference_mode", "target_modules", "exclude_modules", "layers_to_transform"),
    *("layers_pattern", "lora_dropout", "merge_weights", "runtime_config", "megatron_core"),
    *("loftq_config", "eva_config", "corda_config", "lora_ga_config"),
    *("qalora_group_size", "ensure_weight_tying"),
    "fan_in_fan_out",  # peft corrects it layer by layer: the base's class says what is transposed
    # how AdaLoRA trains
    *("target_r", "tinit", "tfinal", "deltaT", "beta1", "beta2", "orth_reg_weight", "total_step"),
}
# Settings that make another function of the adapter than W + scale · B @ A, and what to do.
REFUSED = {
    "target_parameters": "experts' weights are stacked, not linear layers: name those in the"
    " targets, as in lora.targets=[q_proj, k_proj, v_proj, o_proj]",
    "layer_replication": "it repeats layers of the base: build that model and train on it",
    "alora_invocation_tokens": "it is active after certain tokens only: serve it beside the base",
    "use_qalora": "it is made for a quantised base: train plain LoRA on the model as it was before",
    "use_bdlora": "its factors are block-diagonal: train plain LoRA",
    "velora_config": "it stores what it compresses activations with: train plain LoRA",
    "monteclora_config": "its weights are random variables: train plain LoRA",
    "kasa_config": "it cuts singular values off the base: train plain LoRA",
    "arrow_config": "it chooses among adapters token by token: merge one of them",
    "megatron_config": "Megatron shards its layers: export it to plain LoRA",
}
PROMPT_TYPES = ("P_TUNING", "PROMPT_TUNING")
# Every other initialisation (pissa, olora, corda, loftq, lora_ga, …) trains against a changed base.
PLAIN_INITS = (True, False, None, "gaussian", "eva", "orthogonal")
CONVERT = (
    "path_initial_model_for_weight_conversion of peft's save_pretrained makes plain LoRA of such an"
    " adapter"
)


def read_settings(path: Path) -> dict[str, Any]:
    """Return adapter_config.json at `path`.

    Raises TrainingError when a field is missing or malformed, or a setting is not supported.
    """
    config = read_json(path)
    check_settings(path, config)
    return config


def check_settings(path: Path, config: JsonObject) -> None:
    """Raise TrainingError, which says that they are those in `path`, as read_settings does."""
    _check_kind(path, config.get("peft_type"))
    _check_supported(path, config)
    _check_numbers(path, config)


def rank(module: str, config: JsonObject) -> int:
    """Return the rank of the module of that dotted name; AdaLoRA may leave it none at all."""
    if _is_adalora(config):
        kept = (config.get("rank_pattern") or {}).get(f"{module}.lora_E")
        return int(config["init_r"] if kept is None else sum(kept))
    return int(_by_pattern(module, config.get("rank_pattern"), config["r"]))


def scale(module: str, config: JsonObject) -> float:
    """Return the factor of B @ A for the module of that dotted name."""
    if _is_adalora(config):  # the rank it began with, however few of them stayed
        return float(config["lora_alpha"] / (config["init_r"] + 1e-5))
    alpha = float(_by_pattern(module, config.get("alpha_pattern"), config["lora_alpha"]))
    divisor = rank(module, config)
    return alpha / (math.sqrt(divisor) if config.get("use_rslora") else divisor)


def token_indices(module: str, config: JsonObject) -> tuple[int, ...]:
    """Return which rows of the module of that dotted name `trainable_token_indices` replaces."""
    indices = config.get("trainable_token_indices") or ()
    if isinstance(indices, dict):
        named = (found for key, found in indices.items() if f".{module}".endswith(f".{key}"))
        indices = next(named, ())
    return tuple(indices)


def _is_adalora(config: JsonObject) -> bool:
    return config.get("peft_type") == "ADALORA"


def _by_pattern(module: str, pattern: JsonObject | None, default: Any) -> Any:
    """Return the value of the first pattern that matches a suffix of whole names, as peft does."""
    for key, value in (pattern or {}).items():
        if re.match(rf"(.*\.)?({key})$", module):
            return value
    return default


def _check_kind(path: Path, kind: object) -> None:
    if kind is None:
        raise TrainingError(f"{path} lacks peft_type: is it an adapter saved by peft?")
    if kind in PROMPT_TYPES:
        raise TrainingError(
            f"{path}: {kind} puts vectors in front of the input: it can neither be merged nor"
            " served here; train a prefix (prefix tuning, P-tuning v2) instead"
        )
    if kind not in ("LORA", "ADALORA"):
        raise TrainingError(f"{path}: peft_type {kind} is not supported, only LORA and ADALORA")


def _check_supported(path: Path, config: JsonObject) -> None:
    for field in sorted(config.keys() - HONOURED - HARMLESS):
        if config[field]:
            remedy = REFUSED.get(field, "does a newer peft write it? save without it")
            raise TrainingError(f"{path}: {field} is not supported by merging: {remedy}")
    if config.get("init_lora_weights") not in PLAIN_INITS:
        raise TrainingError(
            f"{path}: init_lora_weights={config['init_lora_weights']} changes the base itself:"
            f" {CONVERT}"
        )


def _check_numbers(path: Path, config: JsonObject) -> None:
    rank_field = "init_r" if _is_adalora(config) else "r"
    for field, check in ((rank_field, _check_rank), ("lora_alpha", _check_alpha)):
        if config.get(field) is None:
            raise TrainingError(f"{path} lacks {field}: is it an adapter saved by peft?")
        check(path, config[field])
    _check_tokens(path, config.get("trainable_token_indices"))
    if _is_adalora(config):
        _check_adalora(path, config)
    else:
        _check_patterns(path, config)


def _check_rank(path: Path, value: object) -> None:
    if type(value) is not int or value < 1:
        raise TrainingError(f"{path}: a rank must be a whole number above 0, not {value!r}")


def _check_alpha(path: Path, value: Any) -> None:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise TrainingError(f"{path}: lora_alpha must be a number, not {value!r}")


def _check_tokens(path: Path, value: object) -> None:
    lists = value.values() if isinstance(value, dict) else [value or []]
    for ids in lists:
        if not _are_ids(ids):
            raise TrainingError(
                f"{path}: trainable_token_indices must be a list of token ids, or map names of"
                f" modules to such lists, not {ids!r}"
            )


def _are_ids(value: object) -> bool:
    return isinstance(value, list) and all(type(each) is int and each >= 0 for each in value)


def _check_patterns(path: Path, config: JsonObject) -> None:
    for key, check in (("rank_pattern", _check_rank), ("alpha_pattern", _check_alpha)):
        pattern = config.get(key) or {}
        if not isinstance(pattern, dict) or not all(map(_is_regex, pattern)):
            raise TrainingError(f"{path}: {key} must map regular expressions to numbers")
        for value in pattern.values():
            check(path, value)


def _check_adalora(path: Path, config: JsonObject) -> None:
    pattern = config.get("rank_pattern") or {}
    if not isinstance(pattern, dict) or not all(map(_is_mask, pattern.values())):
        raise TrainingError(f"{path}: rank_pattern must map names to lists of true and false")
    if not config["lora_alpha"] > 0:
        raise TrainingError(f"{path}: lora_alpha must be above 0 for ADALORA")


def _is_mask(value: object) -> bool:
    return isinstance(value, list) and all(type(kept) is bool for kept in value)


def _is_regex(text: str) -> bool:
    try:
        re.compile(text)
    except re.error:
        return False
    return True
