"""An older Hugging Face directory (pytorch_model*.bin or safetensors) to a clean one."""

from pathlib import Path

from training.convert.output import ConversionReport, summarise, write_copies
from training.errors import TrainingError
from training.files import JsonObject, write_aside
from training.merge.composition import EMBEDDINGS, HEADS, embedding_rows, same_values
from training.model_directory.directory import read_model_directory
from training.model_directory.model_files import copy_model_files
from training.model_directory.provenance import write_provenance
from training.model_directory.templates import read_template
from training.weights.safetensors_stream import StoredTensor, Tensors


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
    notes = _drop_tied_head(model.config, tensors)
    with write_aside(output) as aside:
        shards, sums = write_copies(tensors, aside, max_shard_size, dtype)
        rows = embedding_rows(tensors)
        notes += copy_model_files(model, [], aside, {"dtype": dtype}, rows, chat)
        details = {"converted_from": "Hugging Face directory", "dtype": dtype or "as in the source"}
        write_provenance(aside, source, (), sums, details)
    return summarise(shards, notes)


def _drop_tied_head(config: JsonObject, tensors: dict[str, StoredTensor]) -> list[str]:
    """Leave a head out that loaders take from the embeddings anyway.

    Raises TrainingError when it is another one, which they would ignore or refuse.
    """
    if not config.get("tie_word_embeddings"):
        return []
    embeddings, heads = _ending(tensors, EMBEDDINGS), _ending(tensors, HEADS)
    dropped = heads if embeddings else []
    for head in dropped:
        if not same_values(head, embeddings[0]):
            raise TrainingError(
                f"{head.path}: {head.name} differs from {embeddings[0].name}, but config.json ties"
                " them: set tie_word_embeddings to false there to keep both, or get the model again"
            )
        del tensors[head.name]
    return [f"{head.name} was left out: it is tied to the embeddings" for head in dropped]


def _ending(tensors: Tensors, names: tuple[str, ...]) -> list[StoredTensor]:
    return [tensor for name, tensor in tensors.items() if name.endswith(names)]
