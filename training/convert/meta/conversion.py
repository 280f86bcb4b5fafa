"""LLaMA's original release (consolidated.NN.pth, params.json) to a model directory."""

from pathlib import Path
from typing import Any

from training.convert.meta.params import Params, read_params
from training.convert.meta.pieces import Pieces
from training.convert.meta.release import assemble, read_release
from training.convert.output import ConversionReport, summarise, write_converted
from training.errors import TrainingError
from training.files import parsing, write_aside, write_json
from training.model_directory.provenance import write_provenance
from training.model_directory.templates import read_template
from training.model_directory.tokenizer import tokenizer_from_sentencepiece
from training.weights.safetensors_stream import TORCH_NAMES
from training.weights.shards import plan_shards


def convert_llama(
    release: Path,
    tokenizer: Path,
    output: Path,
    template: str = "llama",
    max_shard_size: int = 2 * 10**9,
    context: int | None = None,
) -> ConversionReport:
    """Write the model directory `output` from the directory `release`; every weight keeps its bits.

    `tokenizer` is the release's tokenizer.model; `context` the longest sequence in tokens, None for
    what the release was trained on; `max_shard_size` is in bytes.
    Raises TrainingError for files missing, damaged or not of one model; no output then.
    """
    with parsing(release / "params.json", "that of a LLaMA 1 or 2"):
        params = read_params(release / "params.json")
    files = read_release(release)
    pieces = {piece.name: piece for piece in assemble(files, params)}
    context = context or params.context
    made = _tokenizer(tokenizer, context, template, pieces)
    with write_aside(output) as aside:
        planned = [piece.planned() for piece in pieces.values()]
        shards = plan_shards(planned, aside, max_shard_size, None)
        sums = write_converted(shards, lambda tensor: pieces[tensor.name].chunks())
        _write_config(aside, params, pieces, context, made)
        made.save_pretrained(aside)
        source = f"LLaMA release, {len(files)} file(s)"
        write_provenance(aside, release, (), sums, {"converted_from": source})
    return summarise(shards, [f"context {context} tokens (--context sets another)"])


def _tokenizer(path: Path, context: int, template: str, pieces: dict[str, Pieces]) -> Any:
    with parsing(path, "a sentencepiece model of LLaMA's kind"):
        tokenizer = tokenizer_from_sentencepiece(path, context)
    rows = pieces["model.embed_tokens.weight"].planned().shape[0]
    if len(tokenizer) != rows:
        raise TrainingError(
            f"{path} has {len(tokenizer)} tokens, the embedding {rows} rows: set --tokenizer to the"
            " tokenizer.model that these weights were trained with"
        )
    tokenizer.chat_template = read_template(template)
    return tokenizer


def _write_config(
    directory: Path, params: Params, pieces: dict[str, Pieces], context: int, tokenizer: Any
) -> None:
    from transformers import LlamaConfig  # late: seconds, and none for an input that is wrong

    embedding = pieces["model.embed_tokens.weight"].planned()
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=embedding.shape[0],
        hidden_size=params.dim,
        intermediate_size=params.inner,
        num_hidden_layers=params.layers,
        num_attention_heads=params.heads,
        num_key_value_heads=params.kv_heads,
        max_position_embeddings=context,
        rms_norm_eps=params.norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": params.rope_theta},
        dtype=TORCH_NAMES[embedding.dtype],
        **ids,
    )
    config.save_pretrained(directory)
    write_json(directory / "generation_config.json", ids)
