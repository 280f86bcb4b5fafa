"""The linear layers of a model by its class, which are those that a quantised base quantises."""

from pathlib import Path

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

import training.chatglm  # noqa: F401 - so that ChatGLM-6B is known
from training.errors import TrainingError
from training.model_directory.directory import ModelDirectory


def build_class(path: Path) -> PreTrainedModel:
    """The model of the directory, without weights.

    Raises TrainingError when its configuration is not one of its type.
    """
    try:
        config = AutoConfig.from_pretrained(str(path), trust_remote_code=False)
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config)
    except Exception as error:  # each class checks its own settings in its own way
        raise TrainingError(
            f"{path}/config.json describes no language model ({type(error).__name__}: {error})"
        ) from error


def linear_layers(model: PreTrainedModel) -> dict[str, nn.Linear]:
    """Plain linear layers by name, the output layer left out."""
    head = model.get_output_embeddings()
    return {
        name: module
        for name, module in model.named_modules()
        if type(module) is nn.Linear and module is not head
    }


def other_matrices(model: PreTrainedModel) -> list[str]:
    """Names of matrices in other modules than plain linear layers and embeddings."""
    matrices = [name for name, p in model.named_parameters() if p.ndim > 1]
    return [name for name in matrices if not _is_known(model, name)]


def _is_known(model: PreTrainedModel, parameter: str) -> bool:
    module = model.get_submodule(parameter.rpartition(".")[0])
    return type(module) is nn.Linear or isinstance(module, nn.Embedding)


def quantised_weights(base: ModelDirectory) -> set[str]:
    """Names on disk of the weights that quantising the base would change."""
    layers = linear_layers(build_class(base.path))
    return {base.stored_name(f"{name}.weight") for name in layers}
