"""Put an adapter on a base model, and tell how large it is."""

from dataclasses import dataclass
from typing import Any

from training.config import LoraSettings
from training.errors import TrainingError


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


def add_lora(model: Any, settings: LoraSettings) -> Any:
    """Wrap `model` as a peft model whose LoRA weights are its only trainable ones.

    Raises TrainingError when the targets name nothing in the model.
    """
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=settings.r,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=settings.targets,
        modules_to_save=settings.modules_to_save or None,
        use_rslora=settings.rslora,
    )
    try:
        return get_peft_model(model, config)
    except ValueError as error:
        raise TrainingError(f"lora.targets={settings.targets!r}: {error}") from error


def count_parameters(peft_model: Any) -> ParameterCount:
    """Trainable parameters, and those of the model that the adapter was put on."""
    trainable = sum(p.numel() for p in peft_model.parameters() if p.requires_grad)
    total = sum(p.numel() for p in peft_model.parameters())
    return ParameterCount(trainable, total - trainable)
