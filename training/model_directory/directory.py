"""A model directory to read from: its settings, and where its tensors lie."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from training.errors import TrainingError
from training.files import JsonObject, read_json
from training.weights.directory import read_model
from training.weights.safetensors_stream import Tensors


@dataclass(frozen=True)
class ModelDirectory:
    """The directory `path`, whose config.json holds `config`; each of its files is read once."""

    path: Path
    config: JsonObject

    @cached_property
    def tensors(self) -> Tensors:
        """What read_model returns; read when first needed, since .bin files take torch to read."""
        return read_model(self.path)


def read_model_directory(path: Path) -> ModelDirectory:
    """Return the model directory `path`; a quantised one is refused.

    Raises TrainingError when it is quantised, or config.json is missing or damaged.
    """
    config = read_json(path / "config.json")
    if config.get("quantization_config"):
        raise TrainingError(f"{path} is quantised: merge into the model it was quantised from")
    return ModelDirectory(path, config)
