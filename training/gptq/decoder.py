"""A causal model run one decoder layer at a time: no more of its weights is in memory."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

import training.chatglm  # noqa: F401 - so that ChatGLM-6B is known
from training.errors import TrainingError
from training.gptq.rounding import Inputs
from training.model_directory.directory import ModelDirectory
from training.weights.safetensors_stream import FLOAT_SIZES, read_floats

Call = tuple[tuple[Any, ...], dict[str, Any]]
"""What a layer is called with beside its states: masks, positions."""


@dataclass
class Decoder:
    """The layers of the model in `base`, without weights until `weights_of` lends them some.

    `name` is that of the part of the model that has them, such as "model".
    """

    base: ModelDirectory
    name: str
    module: nn.Module
    device: torch.device

    @classmethod
    def of(cls, base: ModelDirectory, device: torch.device) -> Self:
        """Build the model's class without memory for its weights.

        Raises TrainingError where config.json is not one of its type.
        """
        model = _without_weights(base)
        for part in model.modules():
            for name, buffer in part.named_buffers(recurse=False):
                setattr(part, name, buffer.to(device))
        return cls(base, model.base_model_prefix, model.base_model, device)

    @property
    def layers(self) -> Sequence[nn.Module]:
        """In their order."""
        return [*self.module.get_submodule("layers").children()]

    def name_of(self, number: int) -> str:
        """What the names of a layer's tensors begin with."""
        return f"{self.name}.layers.{number}."

    @contextmanager
    def weights_of(self, module: nn.Module, names: Mapping[str, str]) -> Iterator[None]:
        """Give `module` its weights in fp32, by their names in it; take them away afterwards.

        Raises TrainingError where one of them is missing in the directory, or not finite, or has
        another shape.
        """
        shapes = {own: tuple(module.get_parameter(own).shape) for own in names}
        weights = {own: self._read(name, shapes[own]) for own, name in names.items()}
        module.load_state_dict(weights, strict=False, assign=True)
        del weights  # so that those which are replaced are gone
        yield
        for part in module.modules():
            for own, parameter in part.named_parameters(recurse=False):
                setattr(part, own, nn.Parameter(parameter.to("meta"), requires_grad=False))

    def _read(self, name: str, shape: tuple[int, ...]) -> Tensor:
        tensor = self.base.tensors.get(name)
        if tensor is None:
            raise TrainingError(f"{self.base.path} lacks {name}: get the whole model")
        if tensor.shape != shape or tensor.dtype not in FLOAT_SIZES:
            raise TrainingError(
                f"{self.base.path}: {name} is {tensor.dtype} {tensor.shape}, and by config.json"
                f" {shape} of floats: get both again"
            )
        values = torch.from_numpy(read_floats(tensor)).to(self.device)
        if not values.isfinite().all():
            raise TrainingError(f"{self.base.path}: {name} holds NaN or Inf: get the model again")
        return values

    def stored(self, module: nn.Module, start: str) -> dict[str, str]:
        """The names on disk of a module's parameters, by their own; `start` is its own name."""
        return {own: start + own for own, _ in module.named_parameters()}


def _without_weights(base: ModelDirectory) -> PreTrainedModel:
    try:
        config = AutoConfig.from_pretrained(base.path, trust_remote_code=False)
        with init_empty_weights(include_buffers=False):
            return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    except Exception as error:  # each class checks its own settings in its own way
        kind = base.config.get("model_type")
        raise TrainingError(
            f"{base.path}/config.json does not describe a {kind} model: {type(error).__name__}:"
            f" {error}"
        ) from error


@dataclass
class Samples:
    """Calibration samples on their way through the layers.

    `states` [1, tokens, hidden] of each, before the next layer; `calls` by sample and layer.
    """

    states: list[Tensor]
    calls: list[list[Call]]

    @torch.no_grad()
    def inputs(self, number: int, layer: nn.Module, linear: Mapping[str, str]) -> dict[str, Inputs]:
        """Run a layer; return what its linear layers were given, by name, in its order.

        `linear` names the layer whose inputs are the same, itself if it is alone.
        """
        modules = dict(layer.named_modules())
        found = {
            owner: Inputs.of(modules[owner].in_features, self.states[0].device)
            for owner in {*linear.values()}
        }
        hooks = [
            modules[owner].register_forward_pre_hook(partial(_take, inputs))
            for owner, inputs in found.items()
        ]
        for _ in self._outputs(number, layer):
            pass
        for hook in hooks:
            hook.remove()
        return {name: found[linear[name]] for name in modules if name in linear}

    @torch.no_grad()
    def advance(self, number: int, layer: nn.Module) -> None:
        """Replace the states by those after the layer."""
        for place, states in enumerate(self._outputs(number, layer)):
            self.states[place] = states

    def _outputs(self, number: int, layer: nn.Module) -> Iterator[Tensor]:
        for states, calls in zip(self.states, self.calls, strict=True):
            more, named = calls[number]
            yield layer(states, *more, **named)


@torch.no_grad()
def embedded(decoder: Decoder, samples: Sequence[Sequence[int]]) -> Samples:
    """The states before the first layer, and what the model calls its layers with."""
    layers = decoder.layers
    names = decoder.stored(decoder.module, f"{decoder.name}.")
    names = {own: name for own, name in names.items() if not own.startswith("layers.")}
    result = Samples([], [])
    with decoder.weights_of(decoder.module, names), _recording(layers, result):
        for ids in samples:
            result.calls.append([])
            decoder.module(input_ids=torch.tensor([ids], device=decoder.device), use_cache=False)
    return result


@contextmanager
def _recording(layers: Sequence[nn.Module], result: Samples) -> Iterator[None]:
    """While it is held, layers note what they are called with, and pass their states on."""

    def record(states: Tensor, *more: Any, **named: Any) -> Tensor:
        if not result.calls[-1]:
            result.states.append(states)
        result.calls[-1].append((more, named))
        return states

    for layer in layers:
        layer.forward = record
    yield
    for layer in layers:
        del layer.forward


def _take(inputs: Inputs, _: nn.Module, args: tuple[Tensor, ...]) -> None:
    inputs.add(args[0])
