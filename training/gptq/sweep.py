"""The decoder layers rounded one after the other, each on what those before it make of the rows."""

from collections.abc import Iterator, Sequence

import torch

from training.errors import TrainingError
from training.gptq.decoder import Decoder, Samples, embedded
from training.gptq.layers import Plan
from training.gptq.rounding import Rounded, quantise
from training.model_directory.directory import ModelDirectory
from training.progress import Meter
from training.threads import Threads

Rounding = dict[str, Rounded]
"""The linear layers of a decoder layer by name."""


def rounded_layers(
    base: ModelDirectory, plan: Plan, samples: Sequence[Sequence[int]]
) -> Iterator[Rounding]:
    """Round the layers of `plan` for samples of token ids; on the GPU where there is one.

    Raises TrainingError naming the layer that cannot be rounded.
    """
    decoder = Decoder.of(base, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    _refuse_unused(decoder, plan)
    meter = Meter("quantise", len(decoder.layers), "layer")
    with Threads() as threads:
        states = embedded(decoder, samples)
        for number in meter.over(range(len(decoder.layers))):
            yield _rounded(decoder, states, plan, number)
            threads.look()


def _refuse_unused(decoder: Decoder, plan: Plan) -> None:
    """A layer that is never run could not be rounded."""
    names = (decoder.stored(each, decoder.name_of(n)) for n, each in enumerate(decoder.layers))
    used = {name for layer in names for name in layer.values()}
    if others := sorted(plan.weights.keys() - used):
        raise TrainingError(
            f"{decoder.base.path} holds {others[0]}, which a model of its config.json does not"
            " have: get both again"
        )


def _rounded(decoder: Decoder, samples: Samples, plan: Plan, number: int) -> Rounding:
    layer, start = decoder.layers[number], decoder.name_of(number)
    made = {}
    with decoder.weights_of(layer, decoder.stored(layer, start)):
        for name, inputs in samples.inputs(number, layer, plan.within(start)).items():
            weight = layer.get_parameter(f"{name}.weight")
            try:
                made[start + name] = quantise(weight.data, inputs, plan.group)
            except TrainingError as error:
                raise TrainingError(f"{decoder.base.path}: {start}{name}: {error}") from error
            weight.data = made[start + name].weight
        samples.advance(number, layer)
    return made
