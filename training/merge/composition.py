"""What each tensor of the merged model is made of: base, whole tensors and pairs of adapters."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from math import prod
from typing import NamedTuple

import numpy as np

from training.errors import TrainingError
from training.merge.lora import Pair
from training.merge.peft_adapter import LoraAdapter
from training.model_directory.directory import ModelDirectory
from training.weights.safetensors_stream import FLOAT_SIZES, StoredTensor, Tensors, read_values
from training.weights.shards import as_dtype

EMBEDDINGS = ("embed_tokens.weight", "word_embeddings.weight", "wte.weight")
HEADS = ("lm_head.weight", "output_layer.weight")
HEAD = "lm_head.weight"
COMPARED_ELEMENTS = 1 << 20


@dataclass(frozen=True)
class Part:
    """One tensor of the merged model: `source` plus the changes of `pairs`, stored as `dtype`.

    `replaced`: `source` is an adapter's.
    """

    source: StoredTensor
    dtype: str
    pairs: tuple[Pair, ...] = ()
    replaced: bool = False


@dataclass
class Composition:
    """The merged model's parts by name, and what its config and its user must know.

    `rows` is the number of embedding rows, None when the base has no embeddings by a known name.
    """

    parts: dict[str, Part]
    rows: int | None = None
    config: dict[str, object] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def planned(self) -> list[StoredTensor]:
        """Return the tensors to write: names, dtypes, shapes and sizes; their place is to come."""
        parts = self.parts.items()
        return [replace(as_dtype(part.source, part.dtype), name=name) for name, part in parts]


class Ends(NamedTuple):
    """Both ends of a model: the names of its embeddings and head; one is both where `tied`."""

    embedding: str
    head: str
    tied: bool


def compose(base: ModelDirectory, adapters: Sequence[LoraAdapter]) -> Composition:
    """Apply the adapters in order to the base's tensors, reading as little as possible.

    Low-rank changes add up; a whole tensor replaces what was there, so that the last one wins.
    Where config.json ties them, loaders use the embeddings as head too. An adapter that changes
    only one of the two unties them: the other stays as it was, as it was in training.
    Raises TrainingError when an adapter changes nothing, names a tensor that the base lacks or has
    in another shape, or embeddings and head end up with different numbers of rows.
    """
    tensors = base.tensors
    result = Composition({name: Part(tensor, tensor.dtype) for name, tensor in tensors.items()})
    ends = _find_ends(base, adapters)
    if ends and ends.tied:
        result.parts[ends.head] = result.parts[ends.embedding]
    start = dict(result.parts)
    for adapter in adapters:
        _apply(adapter, start, result)
    if ends:
        _finish_vocabulary(result, ends, tensors[ends.embedding].shape[0])
    return result


def _find_ends(base: ModelDirectory, adapters: Sequence[LoraAdapter]) -> Ends | None:
    """None when the base has no embeddings by a known name."""
    embedding = _first(base.tensors, EMBEDDINGS)
    if embedding is None:
        return None
    changed = chain.from_iterable((*adapter.whole, *adapter.pairs) for adapter in adapters)
    head = _first([*base.tensors, *changed], HEADS) or HEAD
    return Ends(embedding, head, bool(base.config.get("tie_word_embeddings")))


def _apply(adapter: LoraAdapter, start: Mapping[str, Part], result: Composition) -> None:
    """Add one adapter to `result`, which has the parts of `start` before the first."""
    replaced = _replace_whole(adapter, start, result)
    if not _add_pairs(adapter, result.parts) and not replaced:
        raise TrainingError(
            f"{adapter.path} changes nothing: every B @ A is zero and every whole tensor is"
            " the base's (was it trained before saving?)"
        )


def _replace_whole(adapter: LoraAdapter, start: Mapping[str, Part], result: Composition) -> bool:
    """Put the adapter's whole tensors in place; return whether one is not the base's."""
    changed = False
    for name, tensor in adapter.whole.items():
        _check_whole(name, tensor, result.parts)
        if same_values(tensor, start[name].source):
            continue  # saved along, not trained: what earlier adapters did here stays
        if result.parts[name] != start[name]:
            result.notes.append(f"{name} is that of {adapter.path.name}, not of adapters before")
        result.parts[name] = Part(tensor, start[name].dtype, replaced=True)
        changed = True
    return changed


def _add_pairs(adapter: LoraAdapter, parts: dict[str, Part]) -> bool:
    """Add the adapter's low-rank changes to `parts`; return whether one is not zero."""
    changed = False
    for name, pair in adapter.pairs.items():
        if name not in parts:
            raise TrainingError(
                f"{adapter.path}: the pair for {name} matches nothing in the base: is this the"
                " adapter's base?"
            )
        pair.check_fits(name, parts[name].source)
        changed |= pair.changes()
        parts[name] = replace(parts[name], pairs=(*parts[name].pairs, pair))
    return changed


def _check_whole(name: str, tensor: StoredTensor, parts: Mapping[str, Part]) -> None:
    if name not in parts:
        raise TrainingError(
            f"{tensor.path}: {tensor.name} matches nothing in the base: is this the adapter's base?"
        )
    there = parts[name].source
    if not {tensor.dtype, there.dtype} <= FLOAT_SIZES.keys():
        raise TrainingError(
            f"{tensor.path}: {tensor.name} is of dtype {tensor.dtype}, the base's of {there.dtype}:"
            " both must be F16, BF16 or F32"
        )
    may_grow = name.endswith((*EMBEDDINGS, *HEADS))
    if tensor.shape[may_grow:] != there.shape[may_grow:]:
        raise TrainingError(
            f"{tensor.path}: {tensor.name} is {tensor.shape}, the base's is {there.shape}: adapter"
            " and base do not belong together"
        )


def _finish_vocabulary(result: Composition, ends: Ends, rows_before: int) -> None:
    """Settle what tied embeddings have become; check and note the rows."""
    if ends.tied:
        _drop_or_untie(result, ends)
    rows = result.rows = result.parts[ends.embedding].source.shape[0]
    words = result.parts.get(ends.head)
    if words and words.source.shape[0] != rows:
        raise TrainingError(
            f"{ends.embedding} would have {rows} rows and {ends.head} {words.source.shape[0]}:"
            " an adapter with a new vocabulary must hold both (modules_to_save)"
        )
    if rows != rows_before:
        result.config["vocab_size"] = rows


def _drop_or_untie(result: Composition, ends: Ends) -> None:
    """Drop a head that is still the embeddings; else it becomes a tensor of its own."""
    if _alike(result.parts[ends.embedding], result.parts[ends.head]):
        del result.parts[ends.head]
        return
    result.config["tie_word_embeddings"] = False
    result.notes.append(
        f"{ends.head} is written as a tensor of its own and tie_word_embeddings set to false: an"
        " adapter changed it and the embeddings in different ways"
    )


def _alike(one: Part, other: Part) -> bool:
    return one == other or (
        not one.pairs and not other.pairs and same_values(one.source, other.source)
    )


def same_values(one: StoredTensor, other: StoredTensor) -> bool:
    """Return whether two tensors of FLOAT_SIZES dtypes hold the same values."""
    if one.shape != other.shape:
        return False
    if (one.path, one.start, one.dtype) == (other.path, other.start, other.dtype):
        return True  # they share a storage
    for first in range(0, prod(one.shape), COMPARED_ELEMENTS):
        ours, theirs = (read_values(each, first, COMPARED_ELEMENTS) for each in (one, other))
        if not np.array_equal(ours, theirs):
            return False
    return True


def embedding_rows(tensors: Tensors) -> int | None:
    """Return the rows of the embeddings; None when none have a known name."""
    name = _first(tensors, EMBEDDINGS)
    return None if name is None else tensors[name].shape[0]


def _first(names: Iterable[str], endings: tuple[str, ...]) -> str | None:
    return next((name for name in names if name.endswith(endings)), None)
