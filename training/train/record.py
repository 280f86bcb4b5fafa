"""What a run began with, which decides whether it can go on, and where it is kept.

training.yaml holds the settings, inputs.json the sums of what they name: data, template, base.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

import yaml

from training.data.settings import Source
from training.errors import TrainingError
from training.files import fingerprint, read_optional_json, sha256, write_durably
from training.model_directory.hub import public_name
from training.model_directory.templates import read_template
from training.train.config import TrainConfig, section

# What may differ between a run and its continuation: nothing that changes the adapter.
RESUMABLE_CHANGES = {
    *("output", "save_every", "save_keep", "log_every", "gradient_checkpointing", "parallel"),
    *("optim.micro_batch", "data.test"),
}
CHECKPOINT = re.compile(r"checkpoint-([0-9]+)")
INPUTS, NAME = "inputs.json", "model's name"
OF_THE_MODEL = ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
WEIGHTS = (".safetensors", ".bin")
Inputs: TypeAlias = Mapping[str, str]
"""Sums by what they are of: data.train, data.eval, template, model."""
PRECISIONS = ("fp32", "bf16", "fp16")  # in a record; `auto` has been decided by then


def run_directory(config: TrainConfig) -> Path:
    """Where checkpoints go; training.yaml in it records the settings that the run began with."""
    return config.output.with_name(config.output.name + ".run")


def recorded_precision(config: TrainConfig, record: Path) -> str:
    """What `precision: auto` meant when the run began it means for the rest, on any machine.

    Raises TrainingError when a record is damaged.
    """
    for begun in (config.output / record.name, record):
        if config.precision == "auto" and begun.is_file():
            return str(_read(begun)["precision"])
    return config.precision


def changes(record: Path, settings: dict[str, object]) -> list[str]:
    """What makes another adapter of `settings` than of those recorded.

    Raises TrainingError when the record is damaged.
    """
    return sorted(_differences(_read(record), settings) - RESUMABLE_CHANGES)


def find_checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """Return the run's checkpoints by the update they were written after, the oldest first.

    What else lies there, such as a copy named checkpoint-best, is no business of the run's.
    """
    found = ((CHECKPOINT.fullmatch(path.name), path) for path in folder.glob("checkpoint-*"))
    return sorted((int(match[1]), path) for match, path in found if match and path.is_dir())


def write_record(record: Path, settings: dict[str, object], inputs: Inputs) -> None:
    """Write both files beside each other, each whole or not at all."""
    write_durably(record.with_name(INPUTS), json.dumps(inputs, indent=2, ensure_ascii=False) + "\n")
    write_durably(record, yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))


def sum_data(config: TrainConfig) -> dict[str, str]:
    """Return the sums of the data that is there."""
    held_out = config.data.eval
    sums = {"data.eval": sha256(held_out)} if held_out and held_out.is_file() else {}
    sources = config.data.train
    if all(source.path.is_file() for source in sources):
        sums["data.train"] = _sum_of_mixture(sources)
    return sums


def _sum_of_mixture(sources: list[Source]) -> str:
    """Of a single file the sum of its bytes; of several, their weights and caps count as well."""
    sums = [sha256(source.path) for source in sources]
    shares = [source.model_dump(exclude={"path"}, exclude_defaults=True) for source in sources]
    if shares == [{}]:
        return sums[0]
    return hashlib.sha256(json.dumps([sums, shares]).encode()).hexdigest()


def sum_inputs(config: TrainConfig) -> Inputs:
    """Return what tells the files apart that the adapter depends on, by what they are.

    Of the base's weights a sample is read: to read all of a large one would take minutes.
    Raises TrainingError when the template is no file.
    """
    sums = sum_data(config)
    if config.template:
        sums["template"] = hashlib.sha256(read_template(config.template).encode()).hexdigest()
    files = sorted(config.model.iterdir())
    used = [path for path in files if path.name in OF_THE_MODEL or path.suffix in WEIGHTS]
    base = [f"{path.name} {fingerprint(path)}" for path in used]
    sums["model"] = hashlib.sha256("\n".join(base).encode()).hexdigest()
    return {**sums, NAME: public_name(config.model)}


def changed_inputs(record: Path, inputs: Inputs) -> list[str]:
    """Return which files hold something else than when the run began; none where nothing says.

    Raises TrainingError when inputs.json is damaged.
    """
    before = read_optional_json(record.with_name(INPUTS))
    names = {"model": f"model ({before.get(NAME, 'another')} when it started)"}
    keys = sorted((before.keys() & inputs.keys()) - {NAME})
    return [names.get(key, key) for key in keys if before[key] != inputs[key]]


def moved_inputs(record: Path, inputs: Inputs) -> set[str]:
    """Return the settings whose files may lie elsewhere now, since their contents are the same."""
    before = read_optional_json(record.with_name(INPUTS))
    return {key for key in before.keys() & inputs.keys() if before[key] == inputs[key]}


def _read(record: Path) -> dict[str, object]:
    try:
        settings = yaml.safe_load(record.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        settings = None
    if not isinstance(settings, dict) or settings.get("precision") not in PRECISIONS:
        raise TrainingError(
            f"{record} does not hold the settings of a run: put it back, or choose another output"
        )
    return settings


def _recorded(section_before: dict[str, object], path: str) -> object:
    """The value of a key; of one that came later the default, which is what was done before."""
    *sections, name = path.split(".")
    fields = section(sections).model_fields
    default = fields[name].get_default() if name in fields else None
    return section_before.get(name, default)


def _differences(before: object, after: object, key: str = "") -> set[str]:
    """Dotted keys whose values differ."""
    if isinstance(before, dict) and isinstance(after, dict):
        names = before.keys() | after.keys()
        inner = (
            _differences(_recorded(before, path), after.get(path.rpartition(".")[2]), path)
            for path in (f"{key}.{name}" if key else name for name in names)
        )
        return set().union(*inner)
    return set() if before == after else {key}
