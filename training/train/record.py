"""training.yaml: the settings that a run began with, which decide whether it can go on."""

from pathlib import Path

import yaml

from training.errors import TrainingError
from training.train.config import TrainConfig

# What may differ between a run and its continuation: nothing that changes the adapter.
RESUMABLE_CHANGES = {
    *("output", "save_every", "save_keep", "log_every", "gradient_checkpointing", "parallel"),
    "optim.micro_batch",
}
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


def write_record(record: Path, settings: dict[str, object]) -> None:
    """Write `settings` to `record`, whole or not at all."""
    aside = record.with_name(f".{record.name}")  # a kill must not leave half of it
    aside.write_text(yaml.safe_dump(settings, sort_keys=False, allow_unicode=True), "utf-8")
    aside.replace(record)


def _read(record: Path) -> dict[str, object]:
    try:
        settings = yaml.safe_load(record.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        settings = None
    if not isinstance(settings, dict) or settings.get("precision") not in PRECISIONS:
        raise TrainingError(
            f"{record} does not hold the settings of a run: put it back, or choose another output"
        )
    return settings


def _differences(before: object, after: object, key: str = "") -> set[str]:
    """Dotted keys whose values differ."""
    if isinstance(before, dict) and isinstance(after, dict):
        names = before.keys() | after.keys()
        inner = (
            _differences(before.get(name), after.get(name), f"{key}.{name}" if key else name)
            for name in names
        )
        return set().union(*inner)
    return set() if before == after else {key}
