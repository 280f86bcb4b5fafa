"""THUDM/chatglm2-6b, chatglm3-6b and their kin, as the hub has them, to a model directory.

Their architecture is what transformers calls glm: the output needs no code of the checkpoint.
"""

from pathlib import Path
from typing import Any

from training.convert.chatglm.chatglm2_checkpoint import ChatGLM2Sizes, read_chatglm2, rope
from training.convert.chatglm.chatglm2_kind import Kind, detect_kind
from training.convert.chatglm.chatglm2_tokenizer import EOS, PIECES, UNK, chatglm2_tokenizer
from training.convert.chatglm.refusals import again
from training.convert.output import ConversionReport, summarise, write_copies
from training.errors import TrainingError
from training.files import read_json, write_aside, write_json
from training.model_directory.provenance import write_provenance
from training.model_directory.templates import read_template
from training.weights.safetensors_stream import TORCH_NAMES


def convert_chatglm2(
    source: Path,
    output: Path,
    template: str | None = None,
    dtype: str | None = None,
    max_shard_size: int = 2 * 10**9,
) -> ConversionReport:
    """Write the model directory `output` from ChatGLM2's or 3's `source`, running no code.

    Tensors get the names of transformers' Glm. `template` None takes the generation's own; `dtype`
    is float16, bfloat16 or float32, None keeps each tensor's own; `max_shard_size` is in bytes.
    Raises TrainingError for a variant that Glm does not compute, quantised or P-tuned; files
    missing, damaged or of different models; a value that is not finite. No output then.
    """
    config = read_json(source / "config.json")
    kind = detect_kind(source, config, template)
    chat = read_template(template or kind.template)
    sizes, tensors = read_chatglm2(source, config, kind)
    rotary = rope(source / "config.json", config, kind)
    tokenizer = chatglm2_tokenizer(source, kind, sizes.context)
    ids = _token_ids(source, kind, sizes, tokenizer)
    with write_aside(output) as aside:
        shards, sums = write_copies(tensors, aside, max_shard_size, dtype)
        stored = dtype or TORCH_NAMES[tensors["model.embed_tokens.weight"].dtype]
        eps = float(config.get("layernorm_epsilon", 1e-5))
        changes = {"rms_norm_eps": eps, "rope_parameters": rotary, "dtype": stored}
        write_json(aside / "config.json", _config(sizes, rotary) | ids | changes)
        write_json(aside / "generation_config.json", ids)
        tokenizer.chat_template = chat
        tokenizer.save_pretrained(aside)
        details = {"converted_from": kind.name, "dtype": dtype or "as in the source"}
        write_provenance(aside, source, (), sums, details)
    return summarise(shards, [f"this is {kind.name}: chat template {template or kind.template}"])


def _config(sizes: ChatGLM2Sizes, rotary: dict[str, Any]) -> dict[str, Any]:
    return {
        "architectures": ["GlmForCausalLM"],
        "model_type": "glm",
        "vocab_size": sizes.vocab,
        "hidden_size": sizes.hidden,
        "intermediate_size": sizes.inner,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "num_key_value_heads": sizes.groups,
        "head_dim": sizes.head,
        "attention_bias": sizes.bias,
        "partial_rotary_factor": 0.5,
        # the length before interpolation: vLLM multiplies it by the factor
        "max_position_embeddings": int(sizes.context / rotary.get("factor", 1)),
        "tie_word_embeddings": False,
    }


def _token_ids(source: Path, kind: Kind, sizes: ChatGLM2Sizes, tokenizer: Any) -> dict[str, Any]:
    """Ids of the tokens that end answers and that pad; the embedding must have all tokens' rows."""
    if len(tokenizer) > sizes.vocab:
        raise TrainingError(
            f"{source / PIECES} and the special tokens of {kind.name} need {len(tokenizer)} rows,"
            f" but the embedding has {sizes.vocab}: {again(kind.hub)}"
        )
    ends = [tokenizer.convert_tokens_to_ids(token) for token in (EOS, *kind.ends)]
    pad = tokenizer.convert_tokens_to_ids(UNK)
    return {"eos_token_id": ends if kind.ends else ends[0], "pad_token_id": pad}
