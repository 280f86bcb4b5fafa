"""Trained prefixes: read as peft or ChatGLM's own code saved them, written into a model directory.

A prefix is a table [P, 2 · layers · heads · head_dim]; layer l has its keys in part 2l, its values
in part 2l + 1. In a model directory it lies as prefix/prefix.safetensors, layers.N.key and
layers.N.value [heads, P, head_dim], out of reach of what loads weights.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from training.errors import TrainingError
from training.files import JsonObject, parsing, read_json, read_optional_json, sha256
from training.merge.peft_adapter import ADAPTER_CONFIG, WEIGHTS
from training.model_directory.directory import ModelDirectory
from training.model_directory.hub import public_name
from training.weights.directory import TORCH_SINGLE, find_file, read_file
from training.weights.safetensors_stream import FLOAT_SIZES, StoredTensor, Tensors, read_floats

FILE = Path("prefix/prefix.safetensors")
ORIGINAL = ("prefix_encoder.safetensors", TORCH_SINGLE)  # ChatGLM's
ENCODER = "transformer.prefix_encoder."

Table = NDArray[np.float32]


@dataclass(frozen=True)
class PrefixAdapter:
    """A prefix and the file that it comes from."""

    path: Path
    weights: Path
    table: Table

    @property
    def tokens(self) -> int:
        """Length of the prefix."""
        return len(self.table)

    def provenance(self) -> dict[str, object]:
        """Name, sha256 of the weights file, length."""
        digest = sha256(self.weights)
        return {"name": public_name(self.path), "sha256": digest, "prefix_tokens": self.tokens}


def refuse_prefixed(base: ModelDirectory) -> None:
    """Raise TrainingError when the base has a prefix: it means nothing with other weights."""
    if base.config.get("prefix_tokens"):
        raise TrainingError(
            f"{base.path} holds a trained prefix: merge into the model that the prefix was put into"
        )


def is_prefix(directory: Path) -> bool:
    """Whether the adapter directory holds a prefix rather than a change of weights."""
    if (directory / ADAPTER_CONFIG).exists():
        return bool(read_json(directory / ADAPTER_CONFIG).get("peft_type") == "PREFIX_TUNING")
    return bool(read_optional_json(directory / "config.json").get("pre_seq_len"))


def read_prefix(directory: Path) -> PrefixAdapter:
    """Read a prefix saved by peft, by this project, or by ChatGLM's P-tuning code.

    A projection network that was saved along is run once and left behind.
    Raises TrainingError when files or tensors are missing, or hold NaN or Inf.
    """
    weights = find_file(directory, WEIGHTS if (directory / ADAPTER_CONFIG).exists() else ORIGINAL)
    tensors = read_file(weights)
    if "prompt_embeddings" in tensors:
        table = _floats(tensors["prompt_embeddings"])
    else:
        table = _encoded(weights, tensors)
    if not np.isfinite(table).all():
        raise TrainingError(f"{weights}: the prefix holds NaN or Inf: train it again")
    return PrefixAdapter(directory, weights, table)


def _encoded(weights: Path, tensors: Tensors) -> Table:
    parts = {n.removeprefix(ENCODER): t for n, t in tensors.items() if n.startswith(ENCODER)}
    if "embedding.weight" not in parts:
        raise TrainingError(
            f"{weights} holds neither prompt_embeddings nor {ENCODER}embedding.weight: is it a"
            " trained prefix?"
        )
    table = _floats(parts["embedding.weight"])
    if "trans.0.weight" not in parts:
        return table
    first, second = (
        (_floats(parts[f"trans.{n}.weight"]), _floats(parts[f"trans.{n}.bias"])) for n in (0, 2)
    )
    folded: Table = np.tanh(table @ first[0].T + first[1]) @ second[0].T + second[1]
    return folded


def _floats(tensor: StoredTensor) -> Table:
    if tensor.dtype not in FLOAT_SIZES:
        raise TrainingError(f"{tensor.path}: {tensor.name} is of dtype {tensor.dtype}, no floats")
    return read_floats(tensor)


def config_changes(base: ModelDirectory, prefix: PrefixAdapter) -> dict[str, object]:
    """What config.json must say so that the base is served with the prefix.

    Raises TrainingError when such a base is not served with a prefix, or is of another size.
    """
    check_takes_prefix(base)
    changes: dict[str, object] = {"prefix_tokens": prefix.tokens}
    if base.config["model_type"] == "llama":  # own name: nothing may load it without the prefix
        changes["architectures"] = ["PrefixLlamaForCausalLM"]
        changes["prefix_position_offset"] = prefix.tokens  # the text begins there, as peft trains
    with parsing(base.path / "config.json", "the configuration of such a model"):
        layers, heads, width = _sizes(base.config)
    if prefix.table.shape[1] != 2 * layers * heads * width:
        raise TrainingError(
            f"{prefix.weights}: a prefix [P, {prefix.table.shape[1]}] does not fit {base.path},"
            f" which takes [P, {2 * layers * heads * width}]: is this the prefix's base?"
        )
    return changes


def check_takes_prefix(base: ModelDirectory) -> None:
    """Raise TrainingError when a model of that type is not served with a prefix."""
    kind = base.config.get("model_type")
    if kind not in ("llama", "chatglm_6b"):
        raise TrainingError(
            f"{base.path} is a {kind} model: prefixes are served for LLaMA and ChatGLM-6B only"
        )


def write_prefix(output: Path, base: ModelDirectory, prefix: PrefixAdapter) -> None:
    """Write prefix/prefix.safetensors, of the base's sizes, below `output`."""
    layers, heads, width = _sizes(base.config)
    parts = prefix.table.reshape(prefix.tokens, 2 * layers, heads, width).transpose(1, 2, 0, 3)
    (output / FILE).parent.mkdir()
    save_file(
        {
            f"layers.{number}.{name}": np.ascontiguousarray(parts[2 * number + half])
            for number in range(layers)
            for half, name in enumerate(("key", "value"))
        },
        output / FILE,
        metadata={"format": "np"},
    )


def _sizes(config: JsonObject) -> tuple[int, int, int]:
    heads = config["num_attention_heads"]
    width = config.get("head_dim") or config["hidden_size"] // heads
    return config["num_hidden_layers"], config.get("num_key_value_heads") or heads, width
