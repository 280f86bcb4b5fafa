#!/usr/bin/env python3
"""How much GPU memory a model takes, and how many sequences fit beside it.

Without --model or --config: a Markdown table for well-known models.
"""

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

EPILOG = """\
examples:
  python k8s/sizing.py --model models/medical --tokens 4096 --sequences 32
  python k8s/sizing.py --config config.json --gpu 80 --tensor-parallel-size 2

GB are 10^9 bytes, a GPU's too: a card sold as 24 or 48 GB has about so much left with ECC on.
Weights and cache are exact (in fp8 a cache is half as large). Assumed, a GPU: 1.5 GB for CUDA, its
graphs, NCCL; the largest step's activations: 4 x hidden + 3 x intermediate numbers a token, 4 x
vocabulary x 4 bytes a sequence. vLLM measures them at its start: "GPU KV cache size" counts.
"""
BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}
FLOATS = {"BF16": 2, "F16": 2, "F32": 4}
GPUS = [24, 40, 48, 80]  # GB
RUNTIME = 1.5e9  # bytes, assumed; see EPILOG
BLOCK = 16  # tokens that vLLM gives a sequence at once


class SizingError(Exception):
    """A config that cannot be computed with; the message says why, and the remedy."""


@dataclass(frozen=True)
class Model:
    """Sizes of a decoder; `small` are the numbers in a layer's norms and biases."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    width: int  # of a head
    inner: int
    vocab: int
    tied: bool
    small: int
    matrices: int = 3  # of an MLP
    final: int = 1  # vectors of the last norm
    prefix: int = 0  # tokens that stand before every sequence
    quantised: tuple[int, int] | None = None  # what `quantised_size` finds

    @property
    def parameters(self) -> int:
        """How many numbers all weights hold."""
        attention = self.hidden * self.width * 2 * (self.heads + self.kv_heads)
        layer = attention + self.matrices * self.hidden * self.inner + self.small
        embeddings = self.vocab * self.hidden * (1 if self.tied else 2)
        return embeddings + self.layers * layer + self.final * self.hidden

    def weights(self, size: int) -> int:
        """Bytes of all weights; `size` bytes a number that is not quantised."""
        codes, numbers = self.quantised or (0, self.parameters)
        return codes + numbers * size

    def cache(self, size: int, gpus: int = 1) -> int:
        """Bytes of keys and values a token and GPU; `size` bytes a number."""
        return 2 * self.layers * max(1, self.kv_heads // gpus) * self.width * size

    def splits(self, gpus: int) -> bool:
        """Whether vLLM can share it out: heads equally, and keys equally or repeated."""
        return self.heads % gpus == 0 and 0 in (self.kv_heads % gpus, gpus % self.kv_heads)


@dataclass(frozen=True)
class Plan:
    """The load: sequences of so many tokens, and how the engine is set."""

    tokens: int = 2048
    sequences: int = 1
    gpus: tuple[int, ...] = (1, 2, 4, 8)
    utilization: float = 0.9
    max_num_seqs: int = 256
    step_tokens: int = 2048

    def margin(self, model: Model, size: int, gpus: int = 1) -> float:
        """Bytes a GPU beside weights and cache, assumed."""
        token = (4 * model.hidden + 3 * model.inner / gpus) * size
        return RUNTIME + self.step_tokens * token + self.max_num_seqs * model.vocab * 16

    def sequence(self, model: Model, size: int, gpus: int = 1) -> int:
        """Bytes of cache a sequence and GPU: whole blocks."""
        return -(-(self.tokens + model.prefix) // BLOCK) * BLOCK * model.cache(size, gpus)

    def fits(self, model: Model, size: int, memory: float, gpus: int) -> int:
        """How many sequences fit into GPUs of `memory` bytes each."""
        free = memory * self.utilization - model.weights(size) / gpus
        free -= self.margin(model, size, gpus)
        return max(0, int(free // self.sequence(model, size, gpus)))

    def fewest(self, model: Model, size: int, memory: float) -> tuple[int, int] | None:
        """The fewest GPUs that hold the sequences, and how many they hold."""
        for gpus in filter(model.splits, self.gpus):
            held = self.fits(model, size, memory, gpus)
            if held >= self.sequences:
                return gpus, held
        return None


def read(config: Mapping[str, Any]) -> Model:
    """The sizes in a config.json of transformers, of this project, or of ChatGLM's own.

    Raises SizingError for other kinds and mixtures of experts.
    """
    kind = config.get("model_type") if isinstance(config, dict) else None
    if kind not in KINDS:
        raise SizingError(f"model_type {kind} is unknown here; known: {', '.join(KINDS)}")
    others = _chatglm2 if "multi_query_group_num" in config else _chatglm
    try:
        return (_llama if kind in BIASED else others)(config)
    except KeyError as error:
        raise SizingError(f"config.json of a {kind} model without {error}") from error


# Projections that have biases: qwen2's always, the others' when attention_bias says so.
BIASED = dict.fromkeys(("llama", "qwen3"), "qkvo") | dict.fromkeys(("qwen2", "glm", "glm4"), "qkv")
BIASED |= {"mistral": ""}
KINDS = [*BIASED, "chatglm", "chatglm_6b"]


def quantised_size(directory: Path) -> tuple[int, int]:
    """Of quantised weights files: bytes that stay as they are, and numbers of the model's dtype.

    Raises SizingError where no file holds quantised weights.
    """
    held = Counter({0: 0})  # bytes, by the size of a number that is not quantised
    for path in sorted(directory.glob("model*.safetensors")):
        try:
            with path.open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                header = json.loads(file.read(min(length, path.stat().st_size)))
            header.pop("__metadata__", None)
            for name, tensor in header.items():
                size = 0 if name.endswith("_scale") else FLOATS.get(tensor["dtype"], 0)
                held[size] += tensor["data_offsets"][1] - tensor["data_offsets"][0]
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise SizingError(f"{path.name} beside it is no safetensors file") from error
    if not held[0]:
        raise SizingError("quantised weights are as large as their files, and none are beside it")
    return held.pop(0), sum(size // each for each, size in held.items())


def _llama(config: Mapping[str, Any]) -> Model:
    kind, hidden, inner = config["model_type"], config["hidden_size"], config["intermediate_size"]
    heads = config["num_attention_heads"]
    kv_heads = config.get("num_key_value_heads") or heads
    explicit = kind in ("qwen3", "glm", "glm4")  # whose heads need not add up to `hidden`
    width = config["head_dim"] if explicit else config.get("head_dim") or hidden // heads
    small = hidden * (4 if kind == "glm4" else 2) + (2 * width if kind == "qwen3" else 0)
    if kind == "qwen2" or config.get("attention_bias"):
        small += BIASED[kind].count("qkv") * width * (heads + 2 * kv_heads)
        small += BIASED[kind].count("o") * hidden
    if kind == "llama" and config.get("mlp_bias"):
        small += 2 * inner + hidden
    return Model(
        config["num_hidden_layers"], hidden, heads, kv_heads, width, inner, config["vocab_size"],
        tied=bool(config.get("tie_word_embeddings", False)), small=small,
        prefix=config.get("prefix_tokens", 0),
    )  # fmt: skip


def _chatglm(config: Mapping[str, Any]) -> Model:
    """The first version: LayerNorm and biases everywhere, a head beside the embeddings."""
    hidden, inner = config["hidden_size"], config["inner_hidden_size"]
    layers = config["num_layers" if "num_layers" in config else "num_hidden_layers"]
    heads = config["num_attention_heads"]
    return Model(
        layers, hidden, heads, heads, hidden // heads, inner, config["vocab_size"],
        tied=bool(config.get("tie_word_embeddings", False)), small=9 * hidden + inner,
        matrices=2, final=2, prefix=config.get("prefix_tokens", 0),
    )  # fmt: skip


def _chatglm2(config: Mapping[str, Any]) -> Model:
    """ChatGLM2 and 3 as the hub has them."""
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    groups = config["multi_query_group_num"] if config.get("multi_query_attention") else heads
    width = config["kv_channels"]
    bias = width * (heads + 2 * groups) if config.get("add_qkv_bias") else 0
    return Model(
        config["num_layers"], hidden, heads, groups, width, config["ffn_hidden_size"],
        config["padded_vocab_size"], tied=False, small=2 * hidden + bias,
    )  # fmt: skip


KNOWN: Mapping[str, Any] = json.loads(Path(__file__).with_name("known_models.json").read_bytes())
"""The sizes in config.json of the models in the table, by their names."""


def table(plan: Plan, gpus: Sequence[float]) -> Iterator[str]:
    """Lines of Markdown: a row for each well-known model and size of its numbers."""
    memory = " | ".join(f"{gpu:g} GB" for gpu in gpus)
    yield f"Sequences of {plan.tokens:,} tokens that fit beside the model, on the fewest GPUs:\n"
    yield f"| model | bits | parameters | weights | cache a token | {memory} |"
    yield "| --- " * (5 + len(gpus)) + "|"
    for name, model in zip(KNOWN, map(read, KNOWN.values()), strict=True):
        for size in (2, 4):
            weights, cache = model.weights(size) / 1e9, model.cache(size) / 1024
            cells = [name, str(8 * size), f"{model.parameters:,}"]
            cells += [f"{weights:.1f} GB", f"{cache:g} KiB"]
            for gpu in gpus:
                needed, held = plan.fewest(model, size, gpu * 1e9) or (0, 0)
                cells.append(f"{held:,}{f' on {needed}' if needed > 1 else ''}" if held else "–")
            yield f"| {' | '.join(cells)} |"


def describe(model: Model, plan: Plan, dtype: str, gpus: Sequence[float]) -> Iterator[str]:
    """Lines for one model: what takes how much, and which GPUs hold the load."""
    size = BYTES[dtype]
    weights, margin = model.weights(size), plan.margin(model, size)
    cache = plan.sequences * plan.sequence(model, size)
    prefix = f" (and {model.prefix} of the prefix)" if model.prefix else ""
    yield f"parameters  {model.parameters:,}{', quantised' * bool(model.quantised)}"
    yield f"weights     {weights / 1e9:.2f} GB in {dtype}"
    load = f"{plan.sequences:,} x {plan.tokens:,} tokens{prefix}"
    yield f"cache       {cache / 1e9:.2f} GB for {load}, {model.cache(size) / 1024:g} KiB a token"
    yield f"margin      {margin / 1e9:.2f} GB a GPU, assumed (--help)"
    total = (weights + cache + margin) / plan.utilization
    yield f"one GPU     {total / 1e9:.1f} GB at a utilization of {plan.utilization:g}"
    for gpu in gpus:
        found = plan.fewest(model, size, gpu * 1e9)
        held = found and f"{found[1]:,} sequences of {plan.tokens:,} tokens on {found[0]}"
        yield f"{f'{gpu:g} GB':12}{held or 'does not fit'}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; 0, or 2 after printing what is wrong."""
    args = _parse(argv)
    plan = Plan(
        args.tokens, args.sequences,
        (args.tensor_parallel_size,) if args.tensor_parallel_size else Plan.gpus,
        args.gpu_memory_utilization, args.max_num_seqs, args.max_num_batched_tokens,
    )  # fmt: skip
    path = args.config or (args.model and args.model / "config.json")
    if path is None:
        print(*table(plan, args.gpu or GPUS), sep="\n")
        return 0
    try:
        config = json.loads(path.read_text("utf-8"))
        model = read(config)
        if config.get("quantization_config"):
            model = replace(model, quantised=quantised_size(path.parent))
        if not any(map(model.splits, plan.gpus)):
            raise SizingError(f"{model.heads} heads cannot be shared by {plan.gpus[0]} GPUs")
        stored = config.get("dtype") or config.get("torch_dtype")
        dtype = args.dtype or ("float16" if stored == "float16" else "bfloat16")
        lines = [*describe(model, plan, dtype, args.gpu or GPUS)]
    except (SizingError, OSError, ValueError) as error:
        print(f"error: {path}: {error}", file=sys.stderr)
        return 2
    print(*lines, sep="\n")
    return 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python k8s/sizing.py", description=__doc__, epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--model", type=Path, metavar="DIR", help="model directory")
    which.add_argument("--config", type=Path, metavar="FILE", help="its config.json alone")
    add = parser.add_argument
    add("--dtype", choices=BYTES, help="default: as stored; bfloat16 where that is float32")
    add("--tokens", type=int, default=2048, help="of a sequence, prompt and answer (%(default)s)")
    add("--sequences", type=int, default=1, help="at the same time (%(default)s)")
    add("--gpu", type=float, action="append", metavar="GB", help="repeatable (24, 40, 48, 80)")
    add("--tensor-parallel-size", type=int, metavar="N", help="GPUs (fewest of 1, 2, 4, 8)")
    add("--gpu-memory-utilization", type=float, default=0.9, metavar="SHARE", help="(%(default)s)")
    add("--max-num-seqs", type=int, default=256, metavar="N", help="in one step (%(default)s)")
    add("--max-num-batched-tokens", type=int, default=2048, metavar="N", help="(%(default)s)")
    args = parser.parse_args(argv)
    numbers = [each for each in vars(args).values() if isinstance(each, int | float)]
    if not all(each > 0 for each in numbers + (args.gpu or [])) or args.gpu_memory_utilization > 1:
        parser.error("numbers must be above 0, and --gpu-memory-utilization at most 1")
    return args


if __name__ == "__main__":
    try:
        try:
            sys.exit(main())
        finally:  # what argparse printed, too, and not in the interpreter's end
            print(end="", flush=True)
            print(end="", file=sys.stderr, flush=True)
    except BrokenPipeError:  # the reader has gone, as `head` does: end quietly, as by SIGPIPE
        os._exit(141)
