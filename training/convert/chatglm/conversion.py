"""THUDM/chatglm-6b as the hub has it (.bin or safetensors, remote code) to a model directory."""

from pathlib import Path
from typing import Any

from training.convert.chatglm.chatglm2_conversion import convert_chatglm2
from training.convert.chatglm.chatglm2_kind import is_chatglm2
from training.convert.chatglm.checkpoint import (
    AGAIN,
    LM_HEAD,
    WORD_EMBEDDINGS,
    ChatGLMSizes,
    read_chatglm,
)
from training.convert.chatglm.tokenizer import TOKENS, read_pieces, tokenizer_from_pieces
from training.convert.output import ConversionReport, summarise, write_copies
from training.errors import TrainingError
from training.files import JsonObject, read_json, write_aside, write_json
from training.model_directory.provenance import write_provenance
from training.model_directory.templates import read_template
from training.weights.safetensors_stream import TORCH_NAMES

PIECES = "ice_text.model"


def convert_chatglm(
    source: Path,
    output: Path,
    template: str | None = None,
    dtype: str | None = None,
    max_shard_size: int = 2 * 10**9,
) -> ConversionReport:
    """Write the model directory `output` from ChatGLM-6B's directory `source`, running no code.

    Tensors keep their names; ChatGLM2 and 3 go to convert_chatglm2. `template` None takes the
    generation's own; `dtype` is float16, bfloat16 or float32, None keeps each tensor's own;
    `max_shard_size` is in bytes.
    Raises TrainingError for what is not ChatGLM-6B, quantised or P-tuned; files missing, damaged or
    of different models; a value that is not finite. No output then.
    """
    config = read_json(source / "config.json")
    if is_chatglm2(config):
        return convert_chatglm2(source, output, template, dtype, max_shard_size)
    chat = read_template(template or "chatglm")
    (sizes, tensors), proto = read_chatglm(source, config), read_pieces(source / PIECES)
    ids = _token_ids(source, config, sizes, [piece.piece for piece in proto.pieces])
    with write_aside(output) as aside:
        shards, sums = write_copies(tensors, aside, max_shard_size, dtype)
        stored = dtype or TORCH_NAMES[tensors[WORD_EMBEDDINGS].dtype]
        fixed = {"tie_word_embeddings": LM_HEAD not in tensors, "dtype": stored}
        write_json(aside / "config.json", _config(config, sizes) | ids | fixed)
        roles = ("bos_token_id", "eos_token_id", "pad_token_id")
        write_json(aside / "generation_config.json", {role: ids[role] for role in roles})
        tokenizer = tokenizer_from_pieces(proto, sizes.context)
        tokenizer.chat_template = chat
        tokenizer.save_pretrained(aside)
        kind, notes = _kind(sizes)
        details = {"converted_from": kind, "dtype": dtype or "as in the source"}
        write_provenance(aside, source, (), sums, details)
    return summarise(shards, notes)


def _kind(sizes: ChatGLMSizes) -> tuple[str, list[str]]:
    """The release that it is, and what is to be said of it."""
    if not sizes.images:
        return "ChatGLM-6B", []
    images = f"{sizes.images} image tokens"
    return f"ChatGLM-6B with {images}", [f"the rows of {images} were left out"]


def _config(config: JsonObject, sizes: ChatGLMSizes) -> dict[str, Any]:
    return {
        "architectures": ["ChatGLM6BForConditionalGeneration"],
        "model_type": "chatglm_6b",
        "vocab_size": sizes.vocab - sizes.images,
        "hidden_size": sizes.hidden,
        "inner_hidden_size": sizes.inner,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "layernorm_epsilon": float(config.get("layernorm_epsilon", 1e-5)),
        "max_position_embeddings": sizes.context,
    }


def _token_ids(
    source: Path, config: JsonObject, sizes: ChatGLMSizes, pieces: list[str]
) -> dict[str, int]:
    """The ids of the pieces, which config.json must have too, above those of image tokens."""
    rows = sizes.vocab - sizes.images
    if len(pieces) > rows:
        raise TrainingError(
            f"{source / PIECES} has {len(pieces)} pieces, but the embedding has {rows} rows"
            f" ({sizes.vocab} less {sizes.images} of image tokens): {AGAIN}"
        )
    ids = {key: pieces.index(token) for key, token in TOKENS.items()}
    for key, number in ids.items():
        if config.get(key) not in (None, number + sizes.images):
            images = f" after {sizes.images} image tokens" if sizes.images else ""
            raise TrainingError(
                f"{source / 'config.json'}: {key} is {config[key]}, but {PIECES} has {TOKENS[key]}"
                f" at {number + sizes.images}{images}: {AGAIN}"
            )
    return ids
