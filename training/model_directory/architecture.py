"""What a checkpoint's class makes of its tensors: their names in it, which are tied or transposed.

config.json names the class; its own tables, in transformers, say the rest. No weight is loaded.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from training.errors import TrainingError
from training.files import JsonObject

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Model types whose tensors have the names of their parameters and are linear layers, embeddings and
# norms only, and whether the class ties the head to the embeddings where config.json does not say.
# It saves the seconds and the memory of loading transformers to know that of the most used ones.
PLAIN = {
    **{"llama": False, "mistral": False, "qwen2": False, "qwen3": False, "glm": False},
    **{"glm4": False, "chatglm_6b": False},
}
TIES = "tie_word_embeddings"


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


def ties_plainly(config: JsonObject) -> bool | None:
    """Whether head and embeddings are tied, None where only the class can say."""
    if "text_config" in config:
        return None
    told = config.get(TIES)
    return told if isinstance(told, bool) else PLAIN.get(config.get("model_type", ""))


def read_architecture(
    path: Path, config: JsonObject, names: Collection[str]
) -> Architecture | None:
    """Build the class of `config`, read from `path`/config.json, without weights, and ask it.

    `names` are those of the tensors on disk. None when transformers knows no causal language model
    of that type.
    Raises TrainingError when the configuration is not one of that type.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.models.auto import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING

    kind = config.get("model_type")
    if kind not in CONFIG_MAPPING or CONFIG_MAPPING[kind] not in MODEL_FOR_CAUSAL_LM_MAPPING:
        return None
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(
                AutoConfig.from_pretrained(str(path), trust_remote_code=False)
            )
    except Exception as error:  # each class checks its own settings in its own way
        raise TrainingError(
            f"{path}/config.json does not describe a {kind} model: {type(error).__name__}:"
            f" {str(error).splitlines()[0] if str(error) else ''}"
        ) from error
    return _describe(model, names)


def _describe(model: "PreTrainedModel", names: Collection[str]) -> Architecture:
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightRenaming, rename_source_key
    from transformers.pytorch_utils import Conv1D

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
    modules = model.named_modules()
    return Architecture(
        tied=bool(model.all_tied_weights_keys),
        stored=stored,
        fused=fused,
        transposed=frozenset(f"{n}.weight" for n, module in modules if isinstance(module, Conv1D)),
    )
