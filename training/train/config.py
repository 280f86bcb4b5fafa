"""One run, one YAML file: the settings of `training.train`, checked before any model loads."""

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, Self, get_args

import yaml
from pydantic import (
    BaseModel,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails

from training.data.settings import DataConfig, Mode, Section
from training.errors import TrainingError
from training.files import read_text
from training.model_directory.templates import read_template
from training.train.methods.settings import (
    AdaLoraSettings,
    FullSettings,
    LoraSettings,
    MethodSettings,
    PrefixSettings,
)

RECIPES = Path(__file__).parents[1] / "recipes"
METHODS = ("lora", "adalora", "prefix", "full")


class OptimSettings(Section):
    """The optimiser's run. Exactly one of `steps` and `epochs` ends it."""

    lr: float = Field(5e-5, gt=0)
    schedule: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "cosine"
    warmup_ratio: float = Field(0.05, ge=0, lt=1)
    weight_decay: float = Field(0.01, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    steps: int | None = Field(None, ge=1)
    epochs: float | None = Field(None, gt=0)
    batch_size: int = Field(8, ge=1, description="samples an update, all processes together")
    micro_batch: int | None = Field(
        None, ge=1, description="samples a process holds at once; null: its share of an update"
    )

    @model_validator(mode="after")
    def _one_end(self) -> Self:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("set exactly one of 'steps' and 'epochs'")
        return self


class TrainConfig(Section):
    """Everything that decides a training run; relative paths start at the working directory."""

    model: Path
    output: Path
    template: str | None = Field(
        None, description="name in training/templates, or a .jinja path; null: the checkpoint's own"
    )
    thinking: Mode | None = Field(
        None, description="off: answers without; on: with; data: as the rows have thoughts"
    )
    train_thoughts: bool = Field(True, description="false: thoughts carry no loss")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="of the base; auto: what this machine is fastest at and has memory for"
    )
    quantization: Literal["nf4", "int8"] | None = Field(
        None, description="of the frozen base's linear layers, 4 or 8 bits a weight (QLoRA)"
    )
    seed: int = Field(42, ge=0)
    gradient_checkpointing: bool = Field(False, description="less memory, more computing")
    parallel: Literal["ddp", "fsdp"] = Field(
        "ddp", description="under torchrun: a whole base a process, or a share of it"
    )
    save_every: int = Field(100, ge=1, description="updates between checkpoints")
    save_keep: int = Field(2, ge=1, description="newest checkpoints kept")
    eval_every: int | None = Field(None, ge=1, description="updates between evaluations")
    keep_best: bool = Field(False, description="write the adapter of the lowest evaluation loss")
    patience: int | None = Field(
        None, ge=1, description="stop after that many evaluations without a lower loss"
    )
    log_every: int = Field(10, ge=1)
    data: DataConfig
    lora: LoraSettings | None = None
    adalora: AdaLoraSettings | None = None
    prefix: PrefixSettings | None = None
    full: FullSettings | None = None
    optim: OptimSettings

    @field_validator("template")
    @classmethod
    def _is_there(cls, template: str | None) -> str | None:
        try:
            if template is not None:
                read_template(template)
        except TrainingError as error:
            raise ValueError(str(error)) from error
        return template

    @property
    def methods(self) -> dict[str, MethodSettings]:
        """The sections that say what to train, by name; once checked there is one."""
        sections = {name: getattr(self, name) for name in METHODS}
        return {name: section for name, section in sections.items() if section}

    @property
    def saved_whole(self) -> list[str]:
        """Modules that an adapter trains and holds whole."""
        settings = self.lora or self.adalora
        return settings.modules_to_save if settings else []

    @property
    def dropout(self) -> float:
        """Of an adapter's inputs."""
        settings = self.lora or self.adalora
        return settings.dropout if settings else 0.0

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if len(self.methods) != 1:
            raise ValueError(f"set exactly one of the sections {', '.join(METHODS)}")
        return self

    @model_validator(mode="after")
    def _can_tell_the_best(self) -> Self:
        if (self.keep_best or self.patience) and not (self.eval_every and self.data.eval):
            raise ValueError("keep_best and patience need eval_every and data.eval")
        return self

    @model_validator(mode="after")
    def _can_be_batched(self) -> Self:
        if self.prefix and self.data.batching == "packed":
            raise ValueError("a prefix stands once before a row: use data.batching=grouped")
        return self

    @model_validator(mode="after")
    def _can_be_shared_out(self) -> Self:
        refusals = self._not_shared_out() if self.parallel == "fsdp" else {}
        for remedy, refused in refusals.items():
            if refused:
                raise ValueError(f"parallel=fsdp {remedy}")
        return self

    def _not_shared_out(self) -> dict[str, bool]:
        eight_bits = self.full is not None and self.full.optimizer == "adamw8bit"
        return {
            "trains LoRA and full only: use parallel=ddp": not (self.lora or self.full),
            "has no loss scaling for fp16: use precision=bf16": self.precision == "fp16",
            "cannot share out quantised weights (FSDP2 gives wrong forward passes or NaN): use"
            " parallel=ddp, where every process holds the small base whole, or quantization=null": (
                self.quantization is not None
            ),
            "shares the optimiser's state out, which adamw8bit cannot: use full.optimizer=adamw, or"
            " parallel=ddp": eight_bits,
        }

    @model_validator(mode="after")
    def _can_be_quantised(self) -> Self:
        if self.quantization and self.full:
            raise ValueError(
                "quantization freezes the base's weights, which full trains: set one of them"
            )
        return self

    @model_validator(mode="after")
    def _has_lengths(self) -> Self:
        if self.quantization == "int8" and self.lora and self.lora.dora:
            raise ValueError(
                "lora.dora needs the length of the base's rows, which peft cannot take from int8:"
                " use quantization=nf4, or lora.dora=false"
            )
        return self


class _Loader(yaml.BaseLoader):
    """YAML in which a scalar is null or text.

    What number, date or truth a text stands for its key decides: `output: 2024-01-01` is a path.
    """


_NULL = "tag:yaml.org,2002:null"
_Loader.add_implicit_resolver(_NULL, re.compile(r"(?:~|null|Null|NULL|)$"), [*"~nN", ""])
_Loader.add_constructor(_NULL, lambda *_: None)


def load_config(name: Path, overrides: list[str]) -> TrainConfig:
    """Read the recipe, apply `section.key=value` overrides, check every key and value.

    `name` is a file, or the name of one that comes with mergeline, such as llama_lora.
    Raises TrainingError naming file, line, key and remedy.
    """
    path = _find(name)
    root, tree = _parse(path, read_text(path))
    if not isinstance(root, yaml.MappingNode) or not isinstance(tree, dict):
        raise TrainingError(f"{path}: expected a mapping of settings, see training/recipes")
    for override in overrides:
        _apply(path, tree, override)
    try:
        return TrainConfig.model_validate(tree)
    except ValidationError as error:
        lines = [_describe(path, root, overrides, detail) for detail in error.errors()]
        raise TrainingError("\n".join(lines)) from error


def _find(name: Path) -> Path:
    shipped = RECIPES / f"{name}.yaml"
    if name.is_file() or name.parent != Path() or not shipped.is_file():
        if name.is_file():
            return name
        known = ", ".join(sorted(path.stem for path in RECIPES.glob("*.yaml")))
        raise TrainingError(f"{name}: no such recipe; name a file, or one of {known}")
    return shipped


def _parse(where: object, text: str) -> tuple[yaml.Node | None, Any]:
    """The nodes, which know their lines, and the values."""
    try:
        root = yaml.compose(text, _Loader)
        _refuse_repeated(where, root)
        return root, yaml.load(text, _Loader)
    except (yaml.YAMLError, RecursionError) as error:
        raise TrainingError(f"{where}: not valid YAML: {error}") from error


def _refuse_repeated(where: object, node: yaml.Node | None) -> None:
    """YAML itself would take the last of two values without a word."""
    if isinstance(node, yaml.MappingNode):
        keys = Counter(str(key.value) for key, _ in node.value)
        for key, _ in node.value:
            if keys[str(key.value)] > 1:
                line = key.start_mark.line + 1
                raise TrainingError(f"{where}:{line}: {key.value!r} is there more than once")
    for child in _children(node):
        _refuse_repeated(where, child)


def _children(node: yaml.Node | None) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [value for _, value in node.value]
    return node.value if isinstance(node, yaml.SequenceNode) else []


def _apply(path: Path, tree: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals:
        raise TrainingError(f"override {override!r}: expected key=value, for example optim.lr=1e-4")
    *sections, leaf = key.split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
        if not isinstance(tree, dict):
            raise TrainingError(f"override {override!r}: {section!r} is no section of {path}")
    _, tree[leaf] = _parse(f"override {override!r}", value)


def _describe(path: Path, root: yaml.Node, overrides: list[str], detail: ErrorDetails) -> str:
    """One line for one pydantic error: where it stands, the key, what is wrong, the remedy."""
    keys = [*map(str, detail["loc"])]
    dotted = ".".join(keys)
    override = next((text for text in overrides if text.startswith(f"{dotted}=")), None)
    where = f"override {override!r}" if override else f"{path}:{_line(root, keys)}"
    if detail["type"] == "extra_forbidden":
        return f"{where}: unknown key {dotted!r}; known here: {', '.join(_known(keys[:-1]))}"
    if detail["type"] == "value_error":  # our own: about several keys, says itself what is wrong
        return f"{where}: {detail['ctx']['error']}"
    return f"{where}: {dotted}: {detail['msg']} (got {detail['input']!r})"


def _line(node: yaml.Node, keys: list[str]) -> int:
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
    """The keys of a section, by the path to it, or of the recipe itself."""
    return sorted(section(sections).model_fields)


def section(path: Iterable[str]) -> type[BaseModel]:
    """The class of a section, by the keys that lead to it."""
    model: type[BaseModel] = TrainConfig
    for name in (name for name in path if not name.isdecimal()):  # numbers: of a list
        annotation = model.model_fields[name].annotation
        model, *_ = get_args(annotation) or (annotation,)  # of a section that may be missing
    return model
