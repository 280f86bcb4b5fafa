"""What a checkpoint's class makes of its tensors: their names in it, which are tied or transposed.

config.json names the class; its own tables, in transformers, say the rest. No weight is loaded.
Importing this takes transformers' seconds, which most models do not need: see directory.py.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightRenaming, rename_source_key
from transformers.models.auto import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING
from transformers.pytorch_utils import Conv1D

from training.errors import TrainingError
from training.files import JsonObject


@dataclass(frozen=True)
class Architecture:
    """The checkpoint as its class sees it.

    `stored` has the names on disk by the parameters' names, `fused` one of those of which a
    parameter is put together, `transposed` the parameters that are [in, out], as GPT-2's.
    """

    tied: bool
    stored: Mapping[str, str]
    fused: Mapping[str, str]
    transposed: frozenset[str]


def read_architecture(
    path: Path, config: JsonObject, names: Collection[str]
) -> Architecture | None:
    """Build the class of `config`, read from `path`/config.json, without weights, and ask it.

    `names` are those of the tensors on disk. None when transformers knows no causal language model
    of that type.
    Raises TrainingError when the configuration is not one of that type.
    """
    kind = str(config.get("model_type"))
    if kind not in CONFIG_MAPPING or CONFIG_MAPPING[kind] not in MODEL_FOR_CAUSAL_LM_MAPPING:
        return None
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(
                AutoConfig.from_pretrained(str(path), trust_remote_code=False)
            )
    except Exception as error:  # each class checks its own settings in its own way
        raise TrainingError(
            f"{path}/config.json does not describe a {kind} model: {type(error).__name__}: {error}"
        ) from error
    modules = model.named_modules()
    return Architecture(
        bool(model.all_tied_weights_keys),
        *_names(model, names),
        frozenset(f"{name}.weight" for name, module in modules if isinstance(module, Conv1D)),
    )


def _names(model: PreTrainedModel, names: Collection[str]) -> tuple[dict[str, str], dict[str, str]]:
    """The names on disk by parameter: of one tensor each, and one of several put together."""
    changes = get_model_conversion_mapping(model)
    renamings = [change for change in changes if isinstance(change, WeightRenaming)]
    others = [change for change in changes if not isinstance(change, WeightRenaming)]
    state = model.state_dict()
    stored: dict[str, str] = {}
    fused: dict[str, str] = {}
    for name in names:
        parameter, converted = rename_source_key(
            name, renamings, others, model.base_model_prefix, state
        )
        (fused if converted else stored)[parameter] = name
    return stored, fused
