"""Put an adapter on a base model, count its parameters, write it down."""

from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch
from peft import (
    AdaLoraConfig,
    LoraConfig,
    PeftModel,
    PrefixTuningConfig,
    get_peft_model,
    get_peft_model_state_dict,
)
from torch.nn import Linear, Module, Parameter
from transformers import PreTrainedConfig, PreTrainedModel

from training.errors import TrainingError
from training.merge.composition import check_fits
from training.merge.peft_adapter import ADAPTER_CONFIG, assemble
from training.merge.peft_settings import check_settings
from training.model_directory.directory import read_model_directory
from training.train.config import TrainConfig
from training.train.methods.chatglm_prefix import PrefixTunedModel
from training.train.methods.full import FullModel
from training.train.methods.quantised_base import elements, learnt_on
from training.train.methods.settings import AdaLoraSettings, LoraSettings, PrefixSettings
from training.train.methods.tuned_base import heads_of_keys
from training.train.precision import dtype_of
from training.weights.safetensors_stream import StoredTensor
from training.weights.torch_files import CODES

TunedModel: TypeAlias = PeftModel | PrefixTunedModel | FullModel
"""A base with its adapter: peft's, or our own for ChatGLM-6B's prefixes; or a base that trains."""


@dataclass(frozen=True)
class ParameterCount:
    """Numbers of parameters (not bytes)."""

    trainable: int
    backbone: int

    def __str__(self) -> str:
        share = 100 * self.trainable / self.backbone
        return (
            f"trainable parameters: {self.trainable:,} of a {self.backbone:,} backbone "
            f"({share:.2f} %)"
        )


def add_adapter(model: PreTrainedModel, config: TrainConfig, updates: int) -> TunedModel:
    """Wrap `model` as a peft model whose adapter, in fp32, is all that trains.

    Without an adapter it is the base itself that trains, or parts of it.
    Raises TrainingError when the targets name nothing in the model, the settings do not fit
    `updates`, the length of the run, or what comes out could not be merged into the base.
    """
    if config.prefix and model.config.model_type == "chatglm_6b":
        return PrefixTunedModel(model, config.prefix)
    if config.full:
        return FullModel(model, config.full, dtype_of(config))
    (section,) = config.methods
    try:
        wrapped = get_peft_model(model, _peft_config(model, config, updates))
    except ValueError as error:
        raise TrainingError(
            f"{section} does not fit this model and run of {updates} updates: {error} "
            f"(linear layers here, for {section}.targets: {', '.join(_linear_names(model))})"
        ) from error
    if not config.prefix:
        _refuse_unmergeable(wrapped, config.model)
    for parameter in trainable(wrapped).values():
        parameter.data = parameter.data.float()  # a step of AdamW is lost in 8 bits of mantissa
    return wrapped


def _refuse_unmergeable(model: PeftModel, base: Path) -> None:
    """Say now what merging would say of such an adapter; no value is looked at."""
    directory = Path("this adapter")
    settings = model.peft_config["default"].to_dict()
    check_settings(directory / ADAPTER_CONFIG, settings)
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    tensors = {name: _stored(directory, name, tensor) for name, tensor in state.items()}
    adapter = assemble(directory, directory, settings, tensors)
    check_fits(read_model_directory(base), adapter)


def _stored(path: Path, name: str, tensor: torch.Tensor) -> StoredTensor:
    code = CODES[str(tensor.dtype).removeprefix("torch.")]
    return StoredTensor(name, code, tuple(tensor.shape), path, 0, tensor.nbytes)


def _peft_config(
    model: PreTrainedModel, config: TrainConfig, updates: int
) -> LoraConfig | PrefixTuningConfig:
    if config.lora:
        return _lora(config.lora)
    if config.adalora:
        return _adalora(config.adalora, updates)
    if config.gradient_checkpointing:
        raise TrainingError(
            "gradient_checkpointing recomputes without peft's prefix: switch it off"
            " (ChatGLM-6B's prefixes can be trained with it)"
        )
    return _prefix(config.prefix or PrefixSettings(), model.config.get_text_config())


def _linear_names(model: Module) -> list[str]:
    modules = model.named_modules()
    return sorted({name.rpartition(".")[2] for name, one in modules if isinstance(one, Linear)})


def _lora(settings: LoraSettings) -> LoraConfig:
    return LoraConfig(
        r=settings.r, use_rslora=settings.rslora, use_dora=settings.dora, **_shared(settings)
    )


def _adalora(settings: AdaLoraSettings, updates: int) -> AdaLoraConfig:
    return AdaLoraConfig(
        init_r=settings.init_r,
        target_r=settings.target_r,
        tinit=settings.tinit,
        tfinal=settings.tfinal,
        deltaT=settings.delta_t,
        total_step=updates,
        orth_reg_weight=settings.orth_reg_weight,
        **_shared(settings),
    )


def _shared(settings: LoraSettings | AdaLoraSettings) -> dict[str, object]:
    return {
        "task_type": "CAUSAL_LM",
        "lora_alpha": settings.alpha,
        "lora_dropout": settings.dropout,
        "target_modules": settings.targets,
        "modules_to_save": settings.modules_to_save or None,
    }


def _prefix(settings: PrefixSettings, base: PreTrainedConfig) -> PrefixTuningConfig:
    # Spelt out: peft takes the head size for hidden_size / heads, which is not so for every model.
    heads, head_size = heads_of_keys(base)
    return PrefixTuningConfig(
        task_type="CAUSAL_LM",
        num_virtual_tokens=settings.tokens,
        num_layers=base.num_hidden_layers,
        num_attention_heads=heads,
        token_dim=heads * head_size,
        num_transformer_submodules=1,
        prefix_projection=settings.projection,
        encoder_hidden_size=settings.projection_size or base.hidden_size,
    )


def trainable(model: Module) -> dict[str, Parameter]:
    """The parameters that train, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def count_parameters(model: Module) -> ParameterCount:
    """Trainable parameters, and those of the model that trains or that the adapter was put on."""
    mine = sum(p.numel() for p in trainable(model).values())
    total = sum(elements(p) for p in model.parameters())
    return ParameterCount(mine, total if isinstance(model, FullModel) else total - mine)


def write_adapter(model: TunedModel, weights: dict[str, torch.Tensor], folder: Path) -> None:
    """Write config and weights as peft loads them; `weights` are the whole trainable tensors.

    What the base was quantised to goes beside them.
    """
    model.save_pretrained(str(folder), state_dict=weights, save_embedding_layers=False)
    if quantisation := learnt_on(model.get_base_model()):
        quantisation.write(folder)


def orthogonality(model: Module) -> torch.Tensor:
    """AdaLoRA's regularisation: the mean of ‖P Pᵀ - I‖ over A and of ‖Pᵀ P - I‖ over B.

    Source: equation 5 of arXiv:2303.10512, as peft's AdaLoraModel.forward weighs it.
    """
    parts = {n: p for n, p in trainable(model).items() if ".lora_A." in n or ".lora_B." in n}
    total = torch.zeros((), device=next(iter(parts.values())).device)
    for name, p in parts.items():
        gram = p @ p.T if ".lora_A." in name else p.T @ p
        total = total + torch.linalg.norm(gram - torch.eye(len(gram), device=p.device))
    return total / len(parts)
