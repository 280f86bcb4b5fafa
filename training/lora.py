"""LoRA adapters as peft saves them, and the change they make to one weight."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.errors import TrainingError
from training.lora_settings import HONOURED, rank, read_settings, scale
from training.safetensors_stream import FLOAT_SIZES, StoredTensor, read_header, read_tensor

if TYPE_CHECKING:
    import torch

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
KEY = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<half>[AB])\.weight")


@dataclass(frozen=True)
class Pair:
    """One module's change: scale · B[out, rank] @ A[rank, in]."""

    a: StoredTensor
    b: StoredTensor
    rank: int
    scale: float


@dataclass(frozen=True)
class Adapter:
    """An adapter directory: its config and, by name of the base's tensor, its pairs."""

    path: Path
    config: Mapping[str, Any]
    pairs: Mapping[str, Pair]

    def provenance(self) -> dict[str, Any]:
        """Return name, sha256 of the weights file and the settings that merging used."""
        settings = sorted((HONOURED | {"target_modules"}) & self.config.keys())
        with (self.path / WEIGHTS).open("rb") as file:
            digest = file_digest(file, "sha256").hexdigest()
        return {
            "name": self.path.resolve().name,
            "sha256": digest,
            "pairs": len(self.pairs),
            **{key: self.config[key] for key in settings},
        }


def read_adapter(directory: Path, base: Mapping[str, StoredTensor]) -> Adapter:
    """Read an adapter's settings and headers, and check it against the base's tensors.

    Raises:
        TrainingError: files or fields are missing, a setting is not supported, a key matches
            nothing in the base, shapes disagree, values are not finite, or nothing would change.
    """
    config = read_settings(directory / CONFIG)
    if not (directory / WEIGHTS).exists() and (directory / "adapter_model.bin").exists():
        raise TrainingError(f"{directory} holds adapter_model.bin: convert it to {WEIGHTS} first")
    pairs = _pair_up(read_header(directory / WEIGHTS), config)
    for name, pair in pairs.items():
        _check_shapes(name, pair, base)
    if not sum(_changes(pair) for pair in pairs.values()):  # sum: look at every pair
        raise TrainingError(
            f"{directory} changes nothing: every B @ A is zero (was it trained before saving?)"
        )
    return Adapter(directory, config, pairs)


def low_rank(adapters: Sequence[Adapter], name: str) -> "tuple[torch.Tensor, torch.Tensor] | None":
    """Return fp32 (B[out, R], A[R, in]) whose product is the sum of all adapters' changes.

    R is the sum of the adapters' ranks; the scales are inside B. None when no adapter has `name`.
    """
    import torch

    pairs = [adapter.pairs[name] for adapter in adapters if name in adapter.pairs]
    if not pairs:
        return None
    b = torch.cat([read_tensor(pair.b).float() * pair.scale for pair in pairs], dim=1)
    return b, torch.cat([read_tensor(pair.a).float() for pair in pairs])


def _pair_up(header: Mapping[str, StoredTensor], config: Mapping[str, Any]) -> dict[str, Pair]:
    halves: dict[str, dict[str, StoredTensor]] = {}
    for key, tensor in header.items():
        match = KEY.fullmatch(key)
        if not match:
            raise TrainingError(
                f"{tensor.path}: {key} is not a LoRA pair of a linear layer; embeddings, heads"
                " (modules_to_save, base_layer), DoRA and biases in adapters are not supported"
                " (peft leaves unchanged ones out with save_embedding_layers=False)"
            )
        halves.setdefault(match["module"], {})[match["half"]] = tensor
    for module, found in halves.items():
        for half, other in (("A", "B"), ("B", "A")):
            if half not in found:
                raise TrainingError(
                    f"{found[other].path}: {module} has lora_{other} but no lora_{half}:"
                    " save the adapter again"
                )
    return {
        f"{module}.weight": Pair(
            found["A"], found["B"], rank(module, config), scale(module, config)
        )
        for module, found in halves.items()
    }


def _check_shapes(name: str, pair: Pair, base: Mapping[str, StoredTensor]) -> None:
    where = f"{pair.a.path}: the pair for {name}"
    weight = base.get(name)
    if weight is None:
        raise TrainingError(f"{where} matches nothing in the base: is this the adapter's base?")
    if not {weight.dtype, pair.a.dtype, pair.b.dtype} <= FLOAT_SIZES.keys():
        raise TrainingError(
            f"{where} meets a weight of dtype {weight.dtype} (A {pair.a.dtype}, B {pair.b.dtype}):"
            " use a base that is not quantised, with F16, BF16 or F32 weights"
        )
    expected = (*weight.shape[:1], pair.rank), (pair.rank, *weight.shape[1:])
    if (pair.b.shape, pair.a.shape) != expected or len(weight.shape) != 2:
        raise TrainingError(
            f"{where} has A {pair.a.shape}, B {pair.b.shape} and rank {pair.rank}, the weight is"
            f" {weight.shape}: adapter and base (or {CONFIG}) do not belong together"
        )


def _changes(pair: Pair) -> bool:
    """Return whether some rank has values in both halves, which must be finite."""
    a, b = read_tensor(pair.a), read_tensor(pair.b)
    for half, values in ((pair.a, a), (pair.b, b)):
        if not all(bound.isfinite() for bound in values.aminmax()):
            raise TrainingError(f"{half.path}: {half.name} holds NaN or Inf: train it again")
    return bool((a.any(dim=1) & b.any(dim=0)).any())
