"""The sections of a recipe that say what trains; exactly one of them is there."""

import re
from typing import Literal

from pydantic import Field, field_validator

from training.data.settings import Section

Targets = Literal["all-linear"] | list[str]


class LoraSettings(Section):
    """Low-rank adapters (Hu et al., arXiv:2106.09685), as peft's LoraConfig understands them."""

    r: int = Field(8, ge=1)
    alpha: float = Field(32, gt=0)
    dropout: float = Field(0.1, ge=0, lt=1)
    targets: Targets = "all-linear"
    modules_to_save: list[str] = Field([])
    rslora: bool = False
    dora: bool = False


class AdaLoraSettings(Section):
    """LoRA whose ranks shrink where they matter least (Zhang et al., arXiv:2303.10512)."""

    init_r: int = Field(12, ge=1)
    target_r: int = Field(8, ge=1)
    alpha: float = Field(32, gt=0)
    dropout: float = Field(0.1, ge=0, lt=1)
    targets: Targets = "all-linear"
    modules_to_save: list[str] = Field([])
    tinit: int = Field(0, ge=0, description="updates before ranks begin to shrink")
    tfinal: int = Field(0, ge=0, description="last updates, with the ranks that are left")
    delta_t: int = Field(1, ge=1, description="updates between two decisions on ranks")
    orth_reg_weight: float = Field(0.5, ge=0, description="weight of the orthogonality loss")


class PrefixSettings(Section):
    """Trained keys and values before every layer's own (Li and Liang, arXiv:2101.00190)."""

    tokens: int = Field(128, ge=1, description="length of the prefix")
    projection: bool = Field(False, description="train it through a two-layer network")
    projection_size: int | None = Field(None, ge=1, description="its hidden size; null: the base's")


class FullSettings(Section):
    """The base's own weights, all of them or the parts that are named."""

    targets: Literal["all"] | list[str] = Field(
        "all", description="regular expressions, looked for in the parameters' names"
    )
    optimizer: Literal["adamw", "adamw8bit"] = Field(
        "adamw", description="adamw8bit keeps both moments in 8 bits, as bitsandbytes does"
    )
    dtype: Literal["float16", "bfloat16", "float32"] | None = Field(
        None, description="of the output's weights; null: each tensor's own in the base"
    )

    @field_validator("targets")
    @classmethod
    def _are_patterns(cls, targets: str | list[str]) -> str | list[str]:
        for pattern in [targets] if isinstance(targets, str) else targets:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is no regular expression: {error}") from error
        return targets


MethodSettings = LoraSettings | AdaLoraSettings | PrefixSettings | FullSettings
