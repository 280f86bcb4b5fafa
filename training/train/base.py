"""The base model of a run: refused where it cannot be trained on, or not be merged into, loaded."""

from pathlib import Path

import torch
from peft import PeftModel, get_peft_model_state_dict
from transformers import AutoModelForCausalLM, PreTrainedModel

import training.chatglm  # so that ChatGLM-6B is known
from training.errors import TrainingError
from training.merge.composition import check_fits
from training.merge.peft_adapter import ADAPTER_CONFIG, assemble
from training.merge.peft_settings import check_settings
from training.merge.prefix_files import check_takes_prefix, refuse_prefixed
from training.model_directory.directory import ModelDirectory, read_model_directory
from training.model_directory.model_files import check_vocabulary
from training.train.config import TrainConfig
from training.weights.safetensors_stream import StoredTensor
from training.weights.torch_files import CODES


def check_base(config: TrainConfig) -> ModelDirectory:
    """Return the base as it lies on disk, from its headers alone.

    Raises TrainingError when it is quantised, contradicts itself, lacks rows for its tokenizer or
    cannot take the adapter.
    """
    base = read_model_directory(config.model)
    refuse_prefixed(base)
    if config.prefix:
        check_takes_prefix(base)
    check_vocabulary(base.path, base.rows)
    if base.ends is None and base.architecture is None:
        kind = base.config.get("model_type")
        raise TrainingError(f"{base.path}: transformers knows no language model of type {kind!r}")
    return base


def load_base(config: TrainConfig) -> PreTrainedModel:
    """Load the base in the precision that `config` names.

    Raises TrainingError when the files lack weights of the model's class.
    """
    base, report = AutoModelForCausalLM.from_pretrained(
        str(config.model), dtype=dtype(config), trust_remote_code=False, output_loading_info=True
    )
    if missing := sorted(report["missing_keys"]):
        raise TrainingError(
            f"{config.model} lacks weights of {type(base).__name__}, which would begin at random:"
            f" {', '.join(missing[:3])}{', …' * (len(missing) > 3)}: get the whole model again"
        )
    if base.config.model_type == training.chatglm.MODEL_TYPE and config.data.batching == "packed":
        raise TrainingError("ChatGLM-6B's contexts cannot be packed: use data.batching=grouped")
    base.config.use_cache = False  # a cache is dead weight in training
    if config.gradient_checkpointing:
        base.gradient_checkpointing_enable({"use_reentrant": False})
    return base


def dtype(config: TrainConfig) -> torch.dtype:
    """The torch dtype of `precision`, which is no longer auto."""
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[config.precision]


def refuse_unmergeable(model: PeftModel, path: Path) -> None:
    """Raise TrainingError, as merging would, when the adapter could not be merged into the base.

    `path` is the base's directory. No value is looked at.
    """
    directory = Path("this adapter")
    settings = model.peft_config["default"].to_dict()
    check_settings(directory / ADAPTER_CONFIG, settings)
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    tensors = {name: _stored(directory, name, tensor) for name, tensor in state.items()}
    check_fits(read_model_directory(path), assemble(directory, directory, settings, tensors))


def _stored(path: Path, name: str, tensor: torch.Tensor) -> StoredTensor:
    code = CODES[str(tensor.dtype).removeprefix("torch.")]
    return StoredTensor(name, code, tuple(tensor.shape), path, 0, tensor.nbytes)
