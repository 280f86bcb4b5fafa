"""One run, one YAML file: the settings of `training.train`, checked before any model loads."""

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from training.errors import TrainingError


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DataConfig(_Section):
    """Where the samples are: JSON lines, one object a line."""

    train: Path
    eval: Path | None = None
    prompt: str = "input"
    response: str = "target"
    max_length: int = Field(1024, ge=16, description="tokens; a longer prompt is cut in its middle")


class LoraSettings(_Section):
    """Low-rank adapters (Hu et al., arXiv:2106.09685), as peft's LoraConfig understands them."""

    r: int = Field(8, ge=1)
    alpha: float = Field(32, gt=0)
    dropout: float = Field(0.1, ge=0, lt=1)
    targets: Literal["all-linear"] | list[str] = "all-linear"
    modules_to_save: list[str] = []
    rslora: bool = False


class OptimSettings(_Section):
    """The optimiser's run. Exactly one of `steps` and `epochs` ends it."""

    lr: float = Field(5e-5, gt=0)
    schedule: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "cosine"
    warmup_ratio: float = Field(0.05, ge=0, lt=1)
    weight_decay: float = Field(0.01, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    steps: int | None = Field(None, ge=1)
    epochs: float | None = Field(None, gt=0)
    batch_size: int = Field(8, ge=1, description="samples per device and step")
    accumulation: int = Field(1, ge=1, description="steps summed before one update")

    @model_validator(mode="after")
    def _one_end(self) -> "OptimSettings":
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give exactly one of 'steps' and 'epochs'")
        return self


class TrainConfig(_Section):
    """Everything that decides a training run; relative paths start at the working directory."""

    model: Path
    output: Path
    template: str | None = Field(
        None, description="name in training/templates, or a .jinja path; null: the checkpoint's own"
    )
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    seed: int = Field(42, ge=0)
    save_every: int = Field(100, ge=1, description="updates between checkpoints")
    save_keep: int = Field(2, ge=1, description="newest checkpoints kept")
    eval_every: int | None = Field(None, ge=1, description="updates between evaluations")
    log_every: int = Field(10, ge=1)
    data: DataConfig
    lora: LoraSettings = LoraSettings()
    optim: OptimSettings


def load_config(path: Path, overrides: list[str]) -> TrainConfig:
    """Read `path`, apply `section.key=value` overrides, check every key and value.

    Raises TrainingError naming file, line, key and remedy.
    """
    text = _read(path)
    try:
        root = yaml.compose(text)
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise TrainingError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(tree, dict):
        raise TrainingError(f"{path}: expected a mapping of settings, see training/recipes")
    for override in overrides:
        _apply(tree, override)
    try:
        return TrainConfig.model_validate(tree)
    except ValidationError as error:
        lines = [_describe(path, root, overrides, detail) for detail in error.errors()]
        raise TrainingError("\n".join(lines)) from error


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise TrainingError(f"{path}: cannot read the recipe: {error.strerror}") from error


def _apply(tree: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals:
        raise TrainingError(f"override {override!r}: expected key=value, for example optim.lr=1e-4")
    *sections, leaf = key.split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
        if not isinstance(tree, dict):
            raise TrainingError(f"override {override!r}: {section!r} is not a section")
    tree[leaf] = yaml.safe_load(value)


def _describe(path: Path, root: Any, overrides: list[str], detail: Any) -> str:
    """One line for one pydantic error: where it stands, the key, what is wrong, the remedy."""
    keys = [str(part) for part in detail["loc"]]
    dotted = ".".join(keys)
    given = next((text for text in overrides if text.startswith(f"{dotted}=")), None)
    where = f"override {given!r}" if given else f"{path}:{_line(root, keys)}"
    if detail["type"] == "extra_forbidden":
        return f"{where}: unknown key {dotted!r}; known here: {', '.join(_known(keys[:-1]))}"
    return f"{where}: {dotted or 'settings'}: {detail['msg']} (got {detail['input']!r})"


def _line(node: Any, keys: list[str]) -> int:
    """1-based line of the deepest part of `keys` that the YAML text has."""
    line = node.start_mark.line + 1
    for key in keys:
        if not isinstance(node, yaml.MappingNode):
            break
        pair = next((pair for pair in node.value if pair[0].value == key), None)
        if pair is None:
            break
        line, node = pair[0].start_mark.line + 1, pair[1]
    return int(line)


def _known(sections: list[str]) -> list[str]:
    model: type[BaseModel] = TrainConfig
    for section in sections:
        field = model.model_fields.get(section)
        if field is None or not isinstance(field.annotation, type):
            break
        model = field.annotation
    return sorted(model.model_fields)
