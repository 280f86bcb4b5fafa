"""Which layers get weights of 4 bits, and what files and config.json say of them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from training.errors import TrainingError
from training.merge.composition import Composition
from training.merge.quantisation import FUSED, SCALE, WEIGHT, Quantisation
from training.model_directory.directory import ModelDirectory
from training.weights.quantising import Scheme
from training.weights.safetensors_stream import FLOAT_SIZES, StoredTensor

PACKED, SHAPE = ".weight_packed", ".weight_shape"
GROUPS = (32, 64, 128)
"""Weights that share a scale: what vLLM's Marlin kernels take."""
ROWS = 32
"""vLLM's kernels for CPUs take outputs in multiples of this."""
INT4 = Scheme("int4", "I32", 7.0)


@dataclass(frozen=True)
class Plan:
    """The weights to quantise, by name, as they are in the base."""

    group: int
    weights: Mapping[str, StoredTensor]

    @classmethod
    def of(
        cls, base: ModelDirectory, model: Composition, group: int, ignore: Sequence[str] = ()
    ) -> "Plan":
        """Choose the layers of `model`, which becomes the base without them; set its config.

        `ignore`: regular expressions of layers that are left alone.
        Raises TrainingError for kinds of models and sizes of layers that do not fit.
        """
        quantisation = replace(Quantisation.of("int8", ignore=ignore), scheme=INT4)
        chosen, left = quantisation.choose(base, model)
        weights = {name: model.parts.pop(name).source for name in sorted(chosen, key=_number)}
        plan = cls(group, weights)
        plan.refuse_unfit()
        model.config["quantization_config"] = _config(group, left)
        return plan

    def refuse_unfit(self) -> None:
        """Raise TrainingError for layers whose sizes groups or vLLM's kernels do not divide."""
        for name, tensor in self.weights.items():
            layer, (rows, columns) = name.removesuffix(WEIGHT), tensor.shape
            if tensor.dtype not in FLOAT_SIZES:
                raise TrainingError(f"{name} is {tensor.dtype}: it must be F16, BF16 or F32")
            if columns % self.group:
                raise TrainingError(
                    f"{layer} has {columns} inputs, which are no groups of {self.group}:"
                    f" {self._remedy()}"
                )
            if rows % ROWS:
                raise TrainingError(
                    f"{layer} has {rows} outputs, and vLLM's kernels for int4 take multiples of"
                    f" {ROWS}: leave it alone with --ignore, or quantise to int8"
                )

    def _remedy(self) -> str:
        sizes = {tensor.shape[1] for tensor in self.weights.values()}
        fits = [group for group in GROUPS if not any(size % group for size in sizes)]
        if fits:
            return f"set --group-size {fits[-1]}"
        return "leave it alone with --ignore, or quantise to int8"

    def targets(self) -> Iterator[StoredTensor]:
        """The tensors to write, their places to come."""
        for name, source in self.weights.items():
            layer, (rows, columns) = name.removesuffix(WEIGHT), source.shape
            groups = columns // self.group
            yield replace(
                source, name=layer + PACKED, dtype="I32",
                shape=(rows, columns // 8), size=rows * columns // 2,
            )  # fmt: skip
            yield replace(
                source, name=layer + SCALE,
                shape=(rows, groups), size=rows * groups * FLOAT_SIZES[source.dtype],
            )  # fmt: skip
            yield replace(source, name=layer + SHAPE, dtype="I64", shape=(2,), size=16)

    def within(self, start: str) -> dict[str, str]:
        """Of the layers whose names begin with `start`, without it: whose inputs each one has.

        Layers that vLLM computes as one are given the same.
        """
        layers = [name.removesuffix(WEIGHT) for name in self.weights if name.startswith(start)]
        return {name.removeprefix(start): _first(name).removeprefix(start) for name in layers}


def _first(layer: str) -> str:
    """The first of those that are fused with it, else the layer itself."""
    parent, _, own = layer.rpartition(".")
    return next((f"{parent}.{group[0]}" for group in FUSED if own in group), layer)


def _number(name: str) -> int:
    """That of the decoder layer which a weight is in."""
    number = name.partition(".layers.")[2].partition(".")[0]
    return int(number) if number.isdecimal() else -1  # which no model has


def _config(group: int, left: Sequence[str]) -> dict[str, object]:
    """As compressed-tensors spells it."""
    weights = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group"}
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "kv_cache_scheme": None,
        "ignore": ["lm_head", *(name.removesuffix(WEIGHT) for name in left)],
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": {**weights, "group_size": group, "dynamic": False},
                "input_activations": None,
            }
        },
    }
