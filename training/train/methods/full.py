"""Full fine-tuning: the base's own weights train, all of them or those that a recipe names.

They train in fp32. What is saved has the form of an adapter of whole tensors, so that merging makes
the model directory, with all its checks, of a run's end as of its checkpoints.
"""

import re
import shutil
from collections.abc import Collection, Mapping
from itertools import chain
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import PreTrainedModel

from training.errors import TrainingError
from training.files import write_json
from training.merge.composition import check_fits
from training.merge.job import MergeReport, WeightsFormat, merge
from training.merge.learnt_on.layers import build_class
from training.merge.peft_adapter import ADAPTER_CONFIG, PREFIX, WEIGHTS, LoraAdapter
from training.model_directory.directory import ModelDirectory, read_model_directory
from training.model_directory.provenance import add_files
from training.train.config import TrainConfig
from training.train.methods.settings import FullSettings
from training.train.methods.tuned_base import TunedBase
from training.weights.safetensors_stream import TORCH_NAMES, StoredTensor, read_floats

INSIDE = "base_model."  # of the names of a TunedBase's parameters
SETTINGS = {
    **{"peft_type": "LORA", "task_type": "CAUSAL_LM", "inference_mode": True},
    **{"r": 1, "lora_alpha": 1, "target_modules": []},  # no pairs at all
}


class FullModel(TunedBase):
    """The base, of which those parameters train that the settings name."""

    def __init__(self, base: PreTrainedModel, settings: FullSettings, frozen: torch.dtype) -> None:
        """`base` is in fp32; what does not train gets the dtype `frozen`."""
        super().__init__(base)
        names = {*chosen(base, settings)}
        for name, parameter in base.named_parameters():
            if name in names:
                parameter.requires_grad_()
            else:
                parameter.data = parameter.data.to(frozen)

    def save_pretrained(
        self, folder: str, state_dict: Mapping[str, torch.Tensor], **_: object
    ) -> None:
        """Write the trained tensors; those of a tied end under both its names."""
        base = self.base_model
        tensors = {name.removeprefix(INSIDE): tensor for name, tensor in state_dict.items()}
        for twin, name in _twins(base, tensors):
            tensors[twin] = tensors[name].clone()
        named = {PREFIX + name: tensor.contiguous() for name, tensor in tensors.items()}
        save_file(named, Path(folder) / WEIGHTS[0])
        write_json(
            Path(folder) / ADAPTER_CONFIG,
            SETTINGS | {"base_model_name_or_path": base.config.name_or_path},
        )


def _twins(base: PreTrainedModel, trained: Collection[str]) -> list[tuple[str, str]]:
    """Other names of `trained` parameters, each with the one that it trains under."""
    owners = {id(base.get_parameter(name)): name for name in trained}
    everywhere = base.named_parameters(remove_duplicate=False)
    return [(n, owners[id(p)]) for n, p in everywhere if owners.get(id(p), n) != n]


def chosen(base: PreTrainedModel, settings: FullSettings) -> list[str]:
    """Names of the parameters that train.

    Raises TrainingError when a pattern is in no name.
    """
    names = [name for name, _ in base.named_parameters()]
    if settings.targets == "all":
        return names
    return [*dict.fromkeys(chain(*(_found(pattern, names) for pattern in settings.targets)))]


def _found(pattern: str, names: list[str]) -> list[str]:
    found = [*filter(re.compile(pattern).search, names)]
    if not found:
        raise TrainingError(
            f"full.targets: {pattern!r} is in no parameter's name; they are such as"
            f" {', '.join(names[:3])}"
        )
    return found


def check_full(config: TrainConfig) -> None:
    """Look at the base's class, and whether what `config.full` trains can be written back.

    Raises TrainingError when it cannot, before any weight is read.
    """
    if config.full is None:
        return
    base = build_class(config.model)
    path = Path("full.targets")
    tensors = {
        name: StoredTensor(name, "F32", tuple(base.get_parameter(name).shape), path, 0, 0)
        for name in chosen(base, config.full)
    }
    try:
        check_fits(
            read_model_directory(config.model),
            LoraAdapter(path, path, SETTINGS, {}, tensors, {}),
        )
    except TrainingError as error:
        raise TrainingError(f"{error} (name in full.targets what is to train)") from error


def write_model(
    config: TrainConfig, weights: Mapping[str, torch.Tensor], trained: Path, output: Path
) -> None:
    """Merge what was `trained`, a directory with the `weights`, into the base; remove it.

    The files of the model come into the directory `output`. Prints what rounding lost.
    Raises TrainingError as merging does.
    """
    settings = config.full or FullSettings()
    made = output / ".model"
    report = merge(config.model, [trained], made, WeightsFormat(settings.dtype))
    shutil.rmtree(trained)
    for path in made.iterdir():
        path.rename(output / path.name)
    made.rmdir()
    lost = lost_in_rounding(weights, read_model_directory(config.model), settings.dtype)
    told = {"targets": settings.targets, "tensors": report.changed, "lost_to_rounding": lost}
    add_files(output, adapters=[], full=told)
    print(_told(report, lost, settings))


def _told(report: MergeReport, lost: float, settings: FullSettings) -> str:
    notes = [f"note: {note}" for note in report.notes]
    keep = " (full.dtype=float32 keeps it)" if lost else ""
    line = (
        f"{report.changed} of {report.tensors} tensors changed; rounding to"
        f" {settings.dtype or TORCH_NAMES[report.dtype]} lost {lost:.1%} of the change{keep}"
    )
    return "\n".join([*notes, line])


def lost_in_rounding(
    weights: Mapping[str, torch.Tensor], base: ModelDirectory, dtype: str | None
) -> float:
    """What rounding the trained `weights` takes from their change, as a share of its norm.

    `dtype` is that of the output, None each tensor's own in the base.
    """
    lost = changed = 0.0
    for name, tensor in weights.items():
        stored = base.tensors.get(base.stored_name(name.removeprefix(INSIDE)))
        if stored is None:
            continue
        target = getattr(torch, dtype or TORCH_NAMES[stored.dtype])
        rounded = tensor.to(target).to(tensor.dtype)
        lost += float((rounded - tensor).square().sum())
        changed += float((tensor - torch.from_numpy(read_floats(stored))).square().sum())
    return (lost / changed) ** 0.5 if changed else 0.0
