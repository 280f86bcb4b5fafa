"""llama.cpp's format (.gguf) to a model directory, through transformers' own reader."""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from training.convert.output import ConversionReport
from training.errors import TrainingError
from training.files import ODD_VALUES, read_json, sha256, write_aside, write_json
from training.model_directory.provenance import write_provenance
from training.model_directory.templates import read_template
from training.model_directory.tokenizer_files import finish_tokenizer
from training.weights.directory import read_model

# what transformers' and gguf's readers raise for a file that is cut short or of an unknown kind
UNREADABLE = (ImportError, OSError, RuntimeError, struct.error, *ODD_VALUES)


def convert_gguf(
    source: Path,
    output: Path,
    template: str | None = None,
    dtype: str = "float16",
    max_shard_size: int = 2 * 10**9,
) -> ConversionReport:
    """Write the model directory `output` from the file `source`; its blocks become plain weights.

    `template` None keeps the file's own chat template; `dtype` is float16, bfloat16 or float32;
    `max_shard_size` is in bytes. The whole model is in memory, in `dtype`.
    Raises TrainingError for what is not a GGUF file, one that transformers cannot read, or values
    that `dtype` cannot hold; no output then.
    """
    chat = read_template(template) if template else None
    _check_whole(source)
    with write_aside(output) as aside:
        with _reading(source) as place:
            from training.convert.gguf.reader import read_gguf  # late: it takes seconds

            model, tokenizer = read_gguf(place, dtype)
        _check_finite(model, dtype)
        model.save_pretrained(aside, max_shard_size=max_shard_size)
        tokenizer.save_pretrained(aside)
        notes = finish_tokenizer(aside, chat, None)
        _drop_origin(aside / "config.json")
        tensors = read_model(aside)
        sums = {path.name: sha256(path) for path in sorted(aside.glob("*.safetensors"))}
        details = {"converted_from": "GGUF", "gguf_sha256": sha256(source), "dtype": dtype}
        write_provenance(aside, source, (), sums, details)
    size = sum(tensor.size for tensor in tensors.values())
    return ConversionReport(len(tensors), size, len(sums), notes)


def _check_whole(source: Path) -> None:
    try:
        with source.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise TrainingError(f"cannot read {source}: {error.strerror}") from error
    if magic != b"GGUF":
        raise TrainingError(f"{source} is not a GGUF file: download it again, or use hf or llama")
    if "-of-" in source.name:
        raise TrainingError(
            f"{source} is one part of several: join them with `llama-gguf-split --merge` first"
        )


@contextmanager
def _reading(source: Path) -> Iterator[Path]:
    """Yield the file in a directory of its own: transformers would read what lies beside it."""
    with TemporaryDirectory() as scratch:
        place = Path(scratch) / source.name
        place.symlink_to(source.absolute())
        try:
            yield place
        except UNREADABLE as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise TrainingError(f"{source}: transformers cannot read it: {reason}") from error


def _check_finite(model: Any, dtype: str) -> None:
    for name, values in model.state_dict().items():
        if not values.isfinite().all():
            raise TrainingError(f"{name} overflows {dtype}: use --dtype bfloat16 or float32")


def _drop_origin(path: Path) -> None:
    """Without the name that the file has for itself, which loaders take for a place."""
    config = read_json(path)
    config.pop("_model_name_or_path", None)
    write_json(path, config)
