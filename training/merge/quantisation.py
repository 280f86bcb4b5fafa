"""Which weights of a model are quantised, and what its files say of that."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from training.errors import TrainingError
from training.merge.composition import Composition
from training.model_directory.directory import PLAIN, ModelDirectory, is_end
from training.weights.quantising import REDUCED, SCHEMES, Error, Scheme
from training.weights.safetensors_stream import StoredTensor

WEIGHT, SCALE = ".weight", ".weight_scale"
FUSED = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Layers that vLLM computes as one, of which all or none are quantised."""


@dataclass(frozen=True)
class Quantisation:
    """How weights are quantised; `ignore`: regular expressions of layers that are not."""

    scheme: Scheme
    clip: bool = False
    ignore: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        scheme: str,
        *,
        clip: bool = False,
        ignore: Sequence[str] = (),
        reduce_range: bool = False,
    ) -> "Quantisation":
        """Raises TrainingError for what is no regular expression, or a range that fp8 has not."""
        if reduce_range and scheme != "int8":
            raise TrainingError(f"--reduce-range is for int8: {scheme} has no such range")
        for pattern in ignore:
            try:
                re.compile(pattern)
            except re.error as error:
                raise TrainingError(
                    f"--ignore {pattern}: no regular expression: {error}"
                ) from error
        chosen = replace(SCHEMES[scheme], largest=REDUCED) if reduce_range else SCHEMES[scheme]
        return cls(chosen, clip, tuple(ignore))

    def apply(self, base: ModelDirectory, model: Composition) -> list[StoredTensor]:
        """Mark the linear layers' weights in `model`; return the plan of their scales.

        Raises TrainingError as choose does.
        """
        chosen, left = self.choose(base, model)
        for name in chosen:
            model.parts[name] = replace(model.parts[name], dtype=self.scheme.dtype)
        model.config["quantization_config"] = {
            **self.scheme.config,
            "ignore": ["lm_head", *(name.removesuffix(WEIGHT) for name in left)],
        }
        return [_scales(model.parts[name].source, name) for name in chosen]

    def choose(self, base: ModelDirectory, model: Composition) -> tuple[list[str], list[str]]:
        """Names of the linear layers' weights: those to quantise, and those to leave.

        Raises TrainingError for a kind of model whose linear layers are not known by name, and for
        layers to ignore that are none, all, or some of those that vLLM computes as one.
        """
        kind = str(base.config.get("model_type"))
        if kind not in PLAIN:
            raise TrainingError(
                f"{base.path} is of the type {kind}, of which it is not known here which weights"
                f" are linear layers: quantised are {', '.join(sorted(PLAIN))}"
            )
        layers = [name for name, part in model.parts.items() if _is_linear(name, part.source)]
        self._refuse_unknown(layers)
        left = [name for name in layers if self._ignores(name)]
        _refuse_parts(layers, {*left})
        if len(left) == len(layers):
            raise TrainingError("--ignore leaves no layer to quantise")
        return [name for name in layers if name not in left], left

    def _refuse_unknown(self, layers: Sequence[str]) -> None:
        for pattern in self.ignore:
            if not any(re.search(pattern, name) for name in layers):
                raise TrainingError(f"--ignore {pattern} is no part of any linear layer's name")

    def _ignores(self, name: str) -> bool:
        return any(re.search(pattern, name) for pattern in self.ignore)


def _refuse_parts(layers: Sequence[str], left: set[str]) -> None:
    for one, others in _fused(layers):
        if one in left and not left.issuperset(others):
            raise TrainingError(
                f"--ignore leaves {one} alone, but vLLM computes it together with"
                f" {', '.join(sorted(others - left))}: ignore all of them, or none"
            )


def _is_linear(name: str, tensor: StoredTensor) -> bool:
    """Of the kinds in PLAIN these are all matrices but embeddings, heads and prefixes."""
    is_matrix = len(tensor.shape) == 2 and name.endswith(WEIGHT)
    return is_matrix and not is_end(name) and "prefix_encoder" not in name


def _scales(source: StoredTensor, name: str) -> StoredTensor:
    rows = source.shape[0]
    scale = name.removesuffix(WEIGHT) + SCALE
    return replace(source, name=scale, dtype="F32", shape=(rows, 1), size=rows * 4)


def _fused(layers: Iterable[str]) -> Iterator[tuple[str, set[str]]]:
    """Each layer of a fused one, and its companions."""
    present = {*layers}
    for name in layers:
        parent, _, own = name.removesuffix(WEIGHT).rpartition(".")
        for group in FUSED:
            if own in group:
                yield name, {f"{parent}.{each}{WEIGHT}" for each in group} & present - {name}


def described(errors: Mapping[str, Error]) -> dict[str, object]:
    """For provenance.json: how far each layer's weights moved, as a share of themselves."""
    layers = {name.removesuffix(WEIGHT): error.share for name, error in errors.items()}
    return {"quantisation": layers} if layers else {}


def told(errors: Mapping[str, Error]) -> str:
    """How far quantised weights are from the exact ones, for people."""
    total = Error()
    for error in errors.values():
        total.add(error)
    worst = max(errors, key=lambda name: errors[name].share)
    return (
        f"{len(errors)} layers quantised, their weights moved by {total.share:.2%} (root mean"
        f" square), most in {worst.removesuffix(WEIGHT)}: {errors[worst].share:.2%}"
    )
