"""ChatGLM-6B's checkpoint: which tensors it has, and what only looks like one.

Names and shapes are those of the original modeling_chatglm.py.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from training.convert.chatglm.refusals import (
    again,
    check_tensors,
    read_size,
    refuse_prefix,
    refuse_quantised,
)
from training.errors import TrainingError
from training.files import JsonObject, read_optional_json
from training.weights.directory import read_model
from training.weights.safetensors_stream import StoredTensor, Tensors
from training.weights.torch_files import COMPUTED

WORD_EMBEDDINGS = "transformer.word_embeddings.weight"
LM_HEAD = "lm_head.weight"
IMAGES = 20_000  # rows for image tokens, before those of the text, in the first release
FIRST_VOCABULARY = 150_528
HUB = "THUDM/chatglm-6b"
AGAIN = again(HUB)


@dataclass(frozen=True)
class ChatGLMSizes:
    """What config.json says of the model; `vocab` counts the checkpoint's rows."""

    vocab: int
    hidden: int
    inner: int
    layers: int
    heads: int
    context: int
    images: int
    """How many of the first rows belong to image tokens."""


def _read_sizes(source: Path, config: JsonObject) -> ChatGLMSizes:
    path = source / "config.json"
    if (kind := config.get("model_type")) != "chatglm":
        raise TrainingError(
            f"{path}: model_type is {kind!r}, not 'chatglm': this converts THUDM/chatglm-6b;"
            " for other Hugging Face directories use `python -m training.convert hf`"
        )
    if config.get("position_encoding_2d") is False:
        raise TrainingError(
            f"{path}: position_encoding_2d is false, but ChatGLM-6B's positions have two"
            f" dimensions, and no others are supported: {AGAIN}"
        )

    def size(key: str, default: int | None = None) -> int:
        return read_size(path, config, key, HUB, default)

    hidden, heads = size("hidden_size"), size("num_attention_heads")
    if hidden % heads:
        raise TrainingError(f"{path}: {heads} heads do not divide hidden_size {hidden}: {AGAIN}")
    vocab, inner, layers = size("vocab_size"), size("inner_hidden_size"), size("num_layers")
    context, images = size("max_sequence_length", 2048), _images(source, config)
    return ChatGLMSizes(vocab, hidden, inner, layers, heads, context, images)


def _images(source: Path, config: JsonObject) -> int:
    if config["vocab_size"] == FIRST_VOCABULARY:  # the first files say it nowhere else
        return IMAGES
    path = source / "tokenizer_config.json"
    count = read_optional_json(path).get("num_image_tokens") or 0
    if type(count) is not int or count < 0:
        raise TrainingError(f"{path}: num_image_tokens must be a number, not {count!r}: {AGAIN}")
    if count >= config["vocab_size"]:
        raise TrainingError(
            f"{path}: {count} image tokens do not fit vocab_size {config['vocab_size']} of"
            f" config.json: {AGAIN}"
        )
    return count


def read_chatglm(source: Path, config: JsonObject) -> tuple[ChatGLMSizes, Tensors]:
    """Return the sizes and the text model's tensors by name, as a forward pass uses them.

    lm_head.weight is not there when the checkpoint ties it. Rows of image tokens and computed
    tensors are left out.
    Raises TrainingError for what is not a ChatGLM-6B, or a quantised or P-tuned one; files missing
    or damaged; a tensor missing, unexpected or misshapen.
    """
    found = {n: t for n, t in read_model(source).items() if not n.endswith(COMPUTED)}
    refuse_quantised(source, config, found, HUB)
    refuse_prefix(
        found, f"convert {HUB}, then let training.merge put the prefix into the model directory"
    )
    sizes = _read_sizes(source, config)
    expected = dict(_expected(sizes))
    if LM_HEAD not in found and config.get("tie_word_embeddings") is not False:
        del expected[LM_HEAD]  # the original ties by default
    check_tensors(source, found, expected, f"ChatGLM-6B of {sizes.layers} layers", HUB)
    return sizes, {name: _without_images(found[name], sizes.images) for name in expected}


def _expected(sizes: ChatGLMSizes) -> Iterator[tuple[str, tuple[int, ...]]]:
    hidden, inner = sizes.hidden, sizes.inner
    layer = {
        "input_layernorm": (hidden,),
        "attention.query_key_value": (3 * hidden, hidden),
        "attention.dense": (hidden, hidden),
        "post_attention_layernorm": (hidden,),
        "mlp.dense_h_to_4h": (inner, hidden),
        "mlp.dense_4h_to_h": (hidden, inner),
    }
    layers = {f"layers.{n}.{name}": s for n in range(sizes.layers) for name, s in layer.items()}
    yield WORD_EMBEDDINGS, (sizes.vocab, hidden)
    for name, shape in (layers | {"final_layernorm": (hidden,)}).items():
        yield f"transformer.{name}.weight", shape
        yield f"transformer.{name}.bias", shape[:1]
    yield LM_HEAD, (sizes.vocab, hidden)


def _without_images(tensor: StoredTensor, rows: int) -> StoredTensor:
    if tensor.name not in (WORD_EMBEDDINGS, LM_HEAD):
        return tensor
    skipped = tensor.size // tensor.shape[0] * rows
    return replace(
        tensor,
        shape=(tensor.shape[0] - rows, *tensor.shape[1:]),
        start=tensor.start + skipped,
        size=tensor.size - skipped,
    )
