"""What a run will hold in memory, by formula, before anything of it is loaded.

Weights, gradients and moments are counted. Activations are estimated: until the backward pass every
linear layer keeps its input and its output, LoRA's dropout a copy and a mask of the input, and the
answers' logits are held three times. On tiny models of seven families that is 0.6 to 1.5 of what
autograd keeps.
"""

from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass

from torch import nn
from transformers import PreTrainedModel

from training.data.collate import Features
from training.merge.learnt_on.layers import linear_layers
from training.train.config import TrainConfig
from training.train.loss import answer_tokens
from training.train.methods.full import chosen
from training.train.methods.settings import PrefixSettings
from training.train.methods.tuned_base import heads_of_keys
from training.weights.blockwise import QUANTISED

SIZES = {"fp32": 4, "bf16": 2, "fp16": 2}
TRAINED, MOMENTS = 4, {"adamw": 8, "adamw8bit": 2 + 8 / 256}  # fp32, whatever the base's precision


@dataclass(frozen=True)
class Need:
    """Bytes that each process needs."""

    weights: float
    gradients: float
    optimizer: float
    activations: float

    @property
    def total(self) -> float:
        """All of them."""
        return float(sum(astuple(self)))

    def __str__(self) -> str:
        parts = (f"{size(value)} {name}" for name, value in vars(self).items())
        return f"memory by formula: {' + '.join(parts)} = {size(self.total)} a process"


def size(count: float) -> str:
    """Bytes for people."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def estimate(
    config: TrainConfig, base: PreTrainedModel, samples: Sequence[Features], world: int
) -> Need:
    """What training `base`, which may be without weights, on `samples` needs in `world` processes.

    `config` has its precision decided.
    """
    trained = _trained(config, base)
    shares = world if config.parallel == "fsdp" else 1
    optimizer = MOMENTS[config.full.optimizer if config.full else "adamw"]
    added = 0 if config.full else TRAINED * trained
    return Need(
        (_frozen(config, base) + added) / shares,
        TRAINED * trained / shares,
        optimizer * trained / shares,
        _activations(config, base, samples, world),
    )


def _frozen(config: TrainConfig, base: PreTrainedModel) -> float:
    """Bytes of the base's parameters."""
    each = _bytes_each(config, base)
    return float(sum(each[name] * p.numel() for name, p in base.named_parameters()))


def _bytes_each(config: TrainConfig, base: PreTrainedModel) -> dict[str, float]:
    """Bytes of a number, by parameter."""
    each: dict[str, float] = dict.fromkeys(dict(base.named_parameters()), SIZES[config.precision])
    if config.quantization:
        layers = (f"{name}.weight" for name in linear_layers(base))
        each |= dict.fromkeys(layers, QUANTISED[config.quantization])
    if config.full:
        each |= dict.fromkeys(chosen(base, config.full), TRAINED)
    return each


def _trained(config: TrainConfig, base: PreTrainedModel) -> int:
    """How many numbers train."""
    if config.full:
        return sum(base.get_parameter(name).numel() for name in chosen(base, config.full))
    if config.prefix:
        return _in_prefix(config.prefix, base)
    pairs = sum(_in_pair(config, layer) for layer in _adapted(config, base))
    return pairs + sum(_in_module(base, name) for name in config.saved_whole)


def _in_pair(config: TrainConfig, layer: nn.Linear) -> int:
    ends = layer.in_features + layer.out_features
    if config.lora:
        return config.lora.r * ends + layer.out_features * config.lora.dora
    return config.adalora.init_r * (ends + 1) if config.adalora else 0


def _in_module(base: PreTrainedModel, kept: str) -> int:
    parameters = base.named_parameters()
    return sum(p.numel() for name, p in parameters if f".{kept}." in f".{name}")


def _adapted(config: TrainConfig, base: PreTrainedModel) -> list[nn.Linear]:
    layers = linear_layers(base)
    return [layer for name, layer in layers.items() if _is_target(config, name)]


def _is_target(config: TrainConfig, layer: str) -> bool:
    settings = config.lora or config.adalora
    targets = settings.targets if settings else []
    return targets == "all-linear" or layer.rpartition(".")[2] in targets


def _in_prefix(settings: PrefixSettings, base: PreTrainedModel) -> int:
    shape = base.config.get_text_config()
    heads, head = heads_of_keys(shape)
    width = 2 * int(shape.num_hidden_layers) * heads * head
    if not settings.projection:
        return settings.tokens * width
    inner = settings.projection_size or int(shape.hidden_size)
    return settings.tokens * heads * head + inner * (heads * head + 1) + width * (inner + 1)


def _activations(
    config: TrainConfig, base: PreTrainedModel, samples: Sequence[Features], world: int
) -> float:
    """Of the largest micro-batch that there could be: all of its rows as long as the longest."""
    rows = config.optim.micro_batch or config.optim.batch_size // world
    tokens = rows * max(len(sample["labels"]) for sample in samples)
    answers = rows * max(answer_tokens([sample]) for sample in samples)
    vocabulary = base.config.get_text_config().vocab_size
    logits = answers * vocabulary * (SIZES[config.precision] + 8)
    return float(tokens * _kept(config, base) + logits)


def _kept(config: TrainConfig, base: PreTrainedModel) -> float:
    """Bytes a token of all layers."""
    shape, number = base.config.get_text_config(), SIZES[config.precision]
    kept = _ends(linear_layers(base).values(), number, number)
    if config.dropout:
        kept += _ends(_adapted(config, base), number + 1, 0)
    if config.gradient_checkpointing:  # every layer's input, and all of one layer
        layers = shape.num_hidden_layers
        kept = kept / layers + layers * shape.hidden_size * number
    return kept


def _ends(layers: Iterable[nn.Linear], before: float, after: float) -> float:
    """Of inputs and outputs, so many bytes for each number."""
    return sum(layer.in_features * before + layer.out_features * after for layer in layers)


def report(need: Need, free: float, processes: int) -> str:
    """Lines for the user: what all `processes` of a machine need, and the `free` bytes there."""
    total = need.total * processes
    line = f"{need}; {size(total)} of {size(free)} that are free"
    if total <= free:
        return line
    return (
        f"{line}\nwarning: by that formula this run does not fit: lower optim.micro_batch or"
        " data.max_length, set gradient_checkpointing=true, train an adapter with quantization=nf4,"
        " or share the base out (parallel=fsdp)"
    )
