"""What the converters of ChatGLM's generations refuse alike: other kinds, odd sizes and tensors."""

from collections.abc import Mapping
from pathlib import Path

from training.errors import TrainingError
from training.files import JsonObject
from training.weights.safetensors_stream import FLOAT_SIZES, Tensors


def again(hub: str) -> str:
    """Return the remedy for files that do not belong together."""
    return f"get every file of {hub} again, all of one revision"


def read_size(
    path: Path, config: JsonObject, key: str, hub: str, default: int | None = None
) -> int:
    """Return the whole number above 0 that the config read from `path` has under `key`.

    Raises TrainingError when there is another value.
    """
    value = config.get(key, default)
    if type(value) is not int or value < 1:
        raise TrainingError(f"{path}: {key} must be a number above 0, not {value!r}: {again(hub)}")
    return value


def refuse_quantised(source: Path, config: JsonObject, found: Tensors, hub: str) -> None:
    """Raise TrainingError when config or weights are of int4 or int8."""
    where = ""
    if config.get("quantization_bit") or config.get("quantization_config"):
        where = f"{source / 'config.json'} sets it"
    for name, tensor in found.items():
        if name.endswith(".weight_scale") or tensor.dtype not in FLOAT_SIZES:
            where = f"{tensor.path} holds {name} as {tensor.dtype}"
    if where:
        raise TrainingError(f"{source} is quantised ({where}): convert the fp16 original, {hub}")


def refuse_prefix(found: Tensors, remedy: str) -> None:
    """Raise TrainingError with the `remedy` when a trained prefix is among the weights."""
    for name, tensor in found.items():
        if "prefix_encoder." in name:
            raise TrainingError(f"{tensor.path} holds {name}, a P-tuning prefix: {remedy}")


def check_tensors(
    source: Path, found: Tensors, expected: Mapping[str, tuple[int, ...]], model: str, hub: str
) -> None:
    """Compare the checkpoint's names and shapes with the `expected` ones of a `model`.

    Raises TrainingError for a tensor missing, unexpected or misshapen.
    """
    for name, tensor in found.items():
        if name not in expected:
            raise TrainingError(
                f"{tensor.path} holds {name}, which no {model} has:"
                " do config.json and the weights belong together?"
            )
    for name, shape in expected.items():
        if name not in found:
            raise TrainingError(f"{source} lacks {name}, which a {model} has: {again(hub)}")
        if found[name].shape != shape:
            raise TrainingError(
                f"{found[name].path}: {name} has shape {list(found[name].shape)}, but config.json"
                f" implies {list(shape)}: {again(hub)}"
            )
