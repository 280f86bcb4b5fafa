"""An older Hugging Face directory (pytorch_model*.bin or safetensors) to a clean one."""

from pathlib import Path

from training.convert.output import ConversionReport, summarise, write_copies
from training.files import write_aside
from training.model_directory.directory import read_model_directory
from training.model_directory.model_files import copy_model_files
from training.model_directory.provenance import write_provenance
from training.model_directory.templates import read_template


def convert_directory(
    source: Path,
    output: Path,
    template: str | None = None,
    dtype: str | None = None,
    max_shard_size: int = 2 * 10**9,
) -> ConversionReport:
    """Write the model directory `output` from the Hugging Face directory `source`.

    `template` None keeps the checkpoint's own chat template; `dtype` is float16, bfloat16 or
    float32, None keeps each tensor's own; `max_shard_size` is in bytes.
    Raises TrainingError for files missing or damaged, a value that is not finite; no output then.
    """
    chat = read_template(template) if template else None
    model = read_model_directory(source)
    tensors = dict(model.tensors)
    notes = [*model.notes]
    if (ends := model.ends) and ends.tied and ends.head:
        del tensors[ends.head]
        notes.append(f"{ends.head} was left out: it is tied to the embeddings")
    with write_aside(output) as aside:
        shards, sums = write_copies(tensors, aside, max_shard_size, dtype)
        notes += copy_model_files(model, [], aside, {"dtype": dtype}, model.rows, chat)
        details = {"converted_from": "Hugging Face directory", "dtype": dtype or "as in the source"}
        write_provenance(aside, source, (), sums, details)
    return summarise(shards, notes)
