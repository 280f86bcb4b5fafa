"""Adapter directories as peft 0.2 to 0.21 save them: their settings, pairs and whole tensors."""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from training.errors import TrainingError
from training.files import JsonObject, parsing, sha256
from training.merge.lora import BiasShift, Pair, TokenRows
from training.merge.peft_settings import HONOURED, rank, read_settings, scale, token_indices
from training.model_directory.hub import public_name
from training.weights.directory import find_file, read_file
from training.weights.safetensors_stream import StoredTensor, Tensors

ADAPTER_CONFIG = "adapter_config.json"
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
PREFIX = "base_model.model."
PART = re.compile(
    r"(?P<module>.+)\.lora_(?P<part>[AB]|B\.bias|embedding_[AB]|E|magnitude_vector)(?:\.weight)?"
)
TOKENS = ".token_adapter.trainable_tokens_delta"
# What peft may put into the name of one whole tensor; of several copies the first here is trained.
COPY = re.compile(r"\.(modules_to_save|base_layer|original_module)(?:\.default)?(?=\.)")
TRAINED_FIRST = ("modules_to_save", "", "base_layer", "original_module")
Parts = dict[str, dict[str, StoredTensor]]  # by module, then by the mark in the name


@dataclass(frozen=True)
class LoraAdapter:
    """An adapter directory; `pairs`, `whole` and `rows` go by the names of the base's tensors."""

    path: Path
    weights: Path
    config: JsonObject
    pairs: Mapping[str, Pair | BiasShift]
    whole: Tensors
    rows: Mapping[str, TokenRows]

    def provenance(self) -> dict[str, object]:
        """Return name, sha256 of the weights file and the settings that merging used."""
        settings = sorted((HONOURED | {"target_modules"}) & self.config.keys())
        return {
            "name": public_name(self.path),
            "sha256": sha256(self.weights),
            "pairs": len(self.pairs),
            "whole": sorted(self.whole),
            **({"tokens": sorted(self.rows)} if self.rows else {}),
            **{key: self.config[key] for key in settings},
        }


def read_adapter(directory: Path) -> LoraAdapter:
    """Read an adapter's settings and headers.

    Raises TrainingError when files, fields or halves of pairs are missing, or something in the
    adapter is not supported.
    """
    with parsing(directory / ADAPTER_CONFIG, "the settings of an adapter saved by peft"):
        config = read_settings(directory / ADAPTER_CONFIG)
        weights = find_file(directory, WEIGHTS)
        return assemble(directory, weights, config, read_file(weights))


def assemble(directory: Path, weights: Path, config: JsonObject, tensors: Tensors) -> LoraAdapter:
    """Put an adapter together from its checked settings and the `tensors` of the file `weights`.

    Raises TrainingError as read_adapter does.
    """
    tokens = {key: tensor for key, tensor in tensors.items() if key.endswith(TOKENS)}
    parts, copies = _sort(weights, {k: t for k, t in tensors.items() if k not in tokens})
    rows = dict(_token_rows(key, tensor, config) for key, tensor in tokens.items())
    _refuse_unsaved(config, weights, copies, rows)
    whole = {name: found[min(found, key=TRAINED_FIRST.index)] for name, found in copies.items()}
    return LoraAdapter(directory, weights, config, _changes(parts, config), whole, rows)


def _changes(parts: Parts, config: JsonObject) -> dict[str, Pair | BiasShift]:
    """By the names of the weights and biases that they change."""
    changes: dict[str, Pair | BiasShift] = {}
    for module, found in parts.items():
        pair = _pair(module, found, config)
        if pair.rank:
            changes[f"{module}.weight"] = pair
        if "B.bias" in found:
            changes[f"{module}.bias"] = BiasShift(found["B.bias"], pair.scale)
    return changes


def _token_rows(key: str, tensor: StoredTensor, config: JsonObject) -> tuple[str, TokenRows]:
    module = key.removeprefix(PREFIX).removesuffix(TOKENS)
    return f"{module}.weight", TokenRows(tensor, token_indices(module, config))


def _sort(weights: Path, tensors: Tensors) -> tuple[Parts, Parts]:
    """The halves of each module's pair, and the copies of each whole tensor, by their marks."""
    parts: Parts = {}
    copies: Parts = {}
    for key, tensor in tensors.items():
        name = key.removeprefix(PREFIX)
        if match := PART.fullmatch(name):
            parts.setdefault(match["module"], {})[match["part"]] = tensor
        elif name == key or ".lora_" in name:
            raise TrainingError(
                f"{weights}: {key} is not a LoRA pair nor a whole tensor: not supported by merging"
            )
        else:
            copy = COPY.search(name)
            copies.setdefault(COPY.sub("", name), {})[copy[1] if copy else ""] = tensor
    return parts, copies


def _refuse_unsaved(
    config: JsonObject, weights: Path, copies: Iterable[str], rows: Collection[str]
) -> None:
    for module in config.get("modules_to_save") or ():
        if not any(module in name for name in copies):
            raise _unsaved(weights, module, "modules_to_save")
    if config.get("trainable_token_indices") and not rows:
        raise _unsaved(weights, "the rows of tokens", "trainable_token_indices")


def _unsaved(weights: Path, what: str, setting: str) -> TrainingError:
    return TrainingError(
        f"{weights} lacks {what}, which {setting} in {ADAPTER_CONFIG} names: save it again"
    )


def _pair(module: str, found: Tensors, config: JsonObject) -> Pair:
    kind = "embedding_" if found.keys() & {"embedding_A", "embedding_B"} else ""
    where = f"{next(iter(found.values())).path}: {module}"
    a, b = (_half(where, f"{kind}{half}", found) for half in "AB")
    _check_kind(where, found, config)
    return Pair(
        *(a, b, rank(module, config), scale(module, config)),
        transposed=bool(kind),
        e=found.get("E"),
        magnitude=found.get("magnitude_vector"),
    )


def _half(where: str, mark: str, found: Tensors) -> StoredTensor:
    if mark not in found:
        has = ", ".join(f"lora_{part}" for part in sorted(found))
        raise TrainingError(f"{where} has {has} but no lora_{mark}: save the adapter again")
    return found[mark]


def _check_kind(where: str, found: Tensors, config: JsonObject) -> None:
    """Refuse tensors that contradict the settings."""
    expected_by_part = {
        "E": (config["peft_type"] == "ADALORA", "peft_type ADALORA"),
        "magnitude_vector": (bool(config.get("use_dora")), "use_dora"),
        "B.bias": (bool(config.get("lora_bias")), "lora_bias"),
    }
    for part, (expected, setting) in expected_by_part.items():
        if (part in found) != expected:
            has = "without" if expected else "with"
            raise TrainingError(
                f"{where} comes {has} lora_{part}, which does not fit {setting} in"
                f" {ADAPTER_CONFIG}: save the adapter again"
            )
