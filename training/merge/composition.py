"""What each tensor of the merged model is made of: base, whole tensors and pairs of adapters."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from math import prod

import numpy as np

from training.errors import TrainingError
from training.merge.lora import Pair
from training.merge.peft_adapter import Adapter
from training.model_directory.directory import ModelDirectory
from training.weights.safetensors_stream import FLOAT_SIZES, StoredTensor, as_floats, read_bytes

EMBEDDINGS = ("embed_tokens.weight", "word_embeddings.weight", "wte.weight")
HEADS = ("lm_head.weight", "output_layer.weight")
HEAD = "lm_head.weight"
COMPARED_ELEMENTS = 1 << 20


@dataclass(frozen=True)
class Part:
    """One tensor of the merged model: `source` plus the changes of `pairs`, stored as `dtype`.

    `replaced` tells that `source` is an adapter's.
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
        return [
            replace(part.source, name=name, dtype=part.dtype, size=_size(part))
            for name, part in self.parts.items()
        ]


def _changed(adapter: Adapter) -> Iterable[str]:
    return (*adapter.whole, *adapter.pairs)


def compose(base: ModelDirectory, adapters: Sequence[Adapter]) -> Composition:
    """Apply the adapters in order to the base's tensors, reading as little as possible.

    Low-rank changes add up; a whole tensor replaces what was there, so that the last one wins.
    Where config.json ties them, loaders use the embeddings as head too. An adapter that changes
    only one of the two unties them: the other stays as it was, as it was in training.

    Raises:
        TrainingError: an adapter changes nothing, names a tensor that the base lacks or has in
            another shape, or embeddings and head end up with different numbers of rows.
    """
    tensors = base.tensors
    result = Composition({name: Part(tensor, tensor.dtype) for name, tensor in tensors.items()})
    embedding = _first(tensors, EMBEDDINGS)
    head = _first([*tensors, *chain.from_iterable(map(_changed, adapters))], HEADS) or HEAD
    tied = bool(base.config.get("tie_word_embeddings")) and embedding is not None
    if tied and embedding:
        result.parts[head] = result.parts[embedding]
    start = dict(result.parts)
    for adapter in adapters:
        if not _apply(adapter, start, result):
            raise TrainingError(
                f"{adapter.path} changes nothing: every B @ A is zero and every whole tensor is"
                " the base's (was it trained before saving?)"
            )
    if embedding:
        _finish_vocabulary(result, tensors[embedding], head, tied)
    return result


def _apply(adapter: Adapter, start: Mapping[str, Part], result: Composition) -> bool:
    """Add one adapter to `result`; return whether it changes anything."""
    changed = False
    for name, tensor in adapter.whole.items():
        _check_whole(name, tensor, result.parts)
        if same_values(tensor, start[name].source):
            continue  # saved along, not trained: what earlier adapters did here stays
        if result.parts[name] != start[name]:
            result.notes.append(f"{name} is that of {adapter.path.name}, not of adapters before")
        result.parts[name] = Part(tensor, start[name].dtype, replaced=True)
        changed = True
    for name, pair in adapter.pairs.items():
        part = result.parts.get(name)
        if part is None:
            raise TrainingError(
                f"{adapter.path}: the pair for {name} matches nothing in the base: is this the"
                " adapter's base?"
            )
        pair.check_fits(name, part.source)
        changed |= pair.changes()
        result.parts[name] = replace(part, pairs=(*part.pairs, pair))
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


def _finish_vocabulary(result: Composition, embedding: StoredTensor, head: str, tied: bool) -> None:
    """Drop a head that is still the embeddings, else untie it; check and note the rows."""
    rows, words = result.parts[embedding.name], result.parts.get(head)
    if tied and words and _alike(rows, words):
        words = None
        del result.parts[head]
    if tied and words:
        result.config["tie_word_embeddings"] = False
        result.notes.append(
            f"{head} is written as a tensor of its own and tie_word_embeddings set to false: an"
            " adapter changed it and the embeddings in different ways"
        )
    result.rows = rows.source.shape[0]
    if words and words.source.shape[0] != result.rows:
        raise TrainingError(
            f"{embedding.name} would have {result.rows} rows and {head} {words.source.shape[0]}:"
            " an adapter with a new vocabulary must hold both (modules_to_save)"
        )
    if result.rows != embedding.shape[0]:
        result.config["vocab_size"] = result.rows


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
        last = first + COMPARED_ELEMENTS
        ours, theirs = (
            as_floats(read_bytes(tensor, first * size, last * size), tensor.dtype)
            for tensor in (one, other)
            for size in (FLOAT_SIZES[tensor.dtype],)
        )
        if not np.array_equal(ours, theirs):
            return False
    return True


def _first(names: Iterable[str], endings: tuple[str, ...]) -> str | None:
    return next((name for name in names if name.endswith(endings)), None)


def _size(part: Part) -> int:
    source = part.source
    if part.dtype not in FLOAT_SIZES:
        return source.size
    return prod(source.shape) * FLOAT_SIZES[part.dtype]
