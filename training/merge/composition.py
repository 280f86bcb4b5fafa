"""What each tensor of the merged model is made of: base, whole tensors and pairs of adapters."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain

from training.errors import TrainingError
from training.merge.lora import BiasShift, Pair, TokenRows
from training.merge.peft_adapter import LoraAdapter
from training.model_directory.directory import TIES, Ends, ModelDirectory, find_head, is_end
from training.weights.compare import same_values
from training.weights.safetensors_stream import FLOAT_SIZES, StoredTensor
from training.weights.shards import as_dtype

HEAD = "lm_head.weight"


@dataclass(frozen=True)
class Part:
    """One tensor of the merged model: `source` plus the changes of `pairs`, stored as `dtype`.

    `replaced`: `source` is an adapter's. `rows` then take the places of those in the source.
    """

    source: StoredTensor
    dtype: str
    pairs: tuple[Pair | BiasShift, ...] = ()
    replaced: bool = False
    rows: tuple[TokenRows, ...] = ()


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


def compose(base: ModelDirectory, adapters: Sequence[LoraAdapter]) -> Composition:
    """Apply the adapters in order to the base's tensors, reading as little as possible.

    Low-rank changes add up; a whole tensor replaces what was there, so that the last one wins.
    Where config.json ties them, loaders use the embeddings as head too. An adapter that changes
    only one of the two unties them: the other stays as it was, as it was in training.
    Raises TrainingError when an adapter changes nothing, names a tensor that the base lacks or has
    in another shape, or embeddings and head end up with different numbers of rows.
    """
    tensors = base.tensors
    adapters = [_as_stored(adapter, base) for adapter in adapters]
    ends = _ends(base, adapters)
    result = Composition(_parts(base, ends))
    start = dict(result.parts)
    for adapter in adapters:
        _apply(adapter, start, result, ends)
    if ends:
        _finish_vocabulary(result, ends, tensors[ends.embedding].shape[0])
    return result


def _ends(base: ModelDirectory, adapters: Sequence[LoraAdapter]) -> Ends | None:
    """Those of the base; a tied head that is not on disk has the name that the adapters give it."""
    if base.ends is None or not base.ends.tied:
        return base.ends
    named = chain.from_iterable((*each.whole, *each.pairs, *each.rows) for each in adapters)
    return base.ends._replace(head=base.ends.head or find_head(named) or HEAD)


def _parts(base: ModelDirectory, ends: Ends | None) -> dict[str, Part]:
    """The base's tensors; where it ties them, the embeddings are the head, too."""
    parts = {name: Part(tensor, tensor.dtype) for name, tensor in base.tensors.items()}
    if ends and ends.tied:
        parts[str(ends.head)] = parts[ends.embedding]
    return parts


def check_fits(base: ModelDirectory, adapter: LoraAdapter) -> None:
    """Raise TrainingError when the adapter, whatever its values, cannot be merged into the base."""
    adapter = _as_stored(adapter, base)
    parts = _parts(base, _ends(base, [adapter]))
    for name, tensor in adapter.whole.items():
        _check_whole(name, tensor, parts)
    for name, tokens in adapter.rows.items():
        _check_rows(adapter, name, tokens, parts)
    for name, pair in adapter.pairs.items():
        _check_pair(adapter, name, pair, parts)


def _as_stored(adapter: LoraAdapter, base: ModelDirectory) -> LoraAdapter:
    """Return the adapter with the base's names on disk and its way to lay out weights.

    peft's go by the names of the model's class.
    """
    _refuse_unknown_layout(adapter, base)
    pairs = {
        base.stored_name(name): pair.laid_out(transposed=base.is_transposed(name))
        for name, pair in adapter.pairs.items()
    }
    whole = {base.stored_name(name): tensor for name, tensor in adapter.whole.items()}
    rows = {base.stored_name(name): tokens for name, tokens in adapter.rows.items()}
    return replace(adapter, pairs=pairs, whole=whole, rows=rows)


def _refuse_unknown_layout(adapter: LoraAdapter, base: ModelDirectory) -> None:
    if adapter.config.get("fan_in_fan_out") and not base.knows_layout:
        raise TrainingError(
            f"{adapter.path}: fan_in_fan_out says that weights are transposed, and which ones the"
            f" class of {base.path} would say, which transformers does not know: merge it by peft"
        )


def _apply(
    adapter: LoraAdapter, start: Mapping[str, Part], result: Composition, ends: Ends | None
) -> None:
    """Add one adapter to `result`, which has the parts of `start` before the first."""
    changes = [
        _replace_whole(adapter, start, result),
        _replace_rows(adapter, start, result, ends),
        _add_pairs(adapter, result.parts),
    ]
    if not any(changes):
        raise TrainingError(
            f"{adapter.path} changes nothing: every B @ A is zero and every whole tensor is"
            " the base's (was it trained before saving?)"
        )


def _replace_rows(
    adapter: LoraAdapter, start: Mapping[str, Part], result: Composition, ends: Ends | None
) -> bool:
    """Put the adapter's rows in place; return whether one is not the base's.

    Where the base ties both ends, those of the embeddings go into both, as peft trains them unless
    the head has rows of its own.
    """
    shared = ends is not None and ends.tied and {*adapter.rows} == {ends.embedding}
    changed = False
    for name, tokens in adapter.rows.items():
        for end in (ends.embedding, str(ends.head)) if ends and shared else (name,):
            _check_rows(adapter, end, tokens, result.parts)
            part = result.parts[end]
            result.parts[end] = replace(part, rows=(*part.rows, tokens))
            changed |= tokens.changes(start[end].source)
    return changed


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
        _check_pair(adapter, name, pair, parts)
        changed |= pair.changes()
        parts[name] = replace(parts[name], pairs=(*parts[name].pairs, pair))
    return changed


def _check_rows(
    adapter: LoraAdapter, name: str, tokens: TokenRows, parts: Mapping[str, Part]
) -> None:
    _expect(name, parts, f"{tokens.rows.path}: {tokens.rows.name}")
    tokens.check_fits(name, parts[name].source)
    if parts[name].pairs or name in adapter.pairs:
        raise TrainingError(_mixed(adapter, name))


def _expect(name: str, parts: Mapping[str, Part], what: str) -> None:
    if name not in parts:
        raise TrainingError(f"{what} matches nothing in the base: is this the adapter's base?")


def _mixed(adapter: LoraAdapter, name: str) -> str:
    return (
        f"{adapter.path}: {name} would have single rows replaced (trainable_token_indices) and a"
        " low-rank change as well: which of them counts is not defined: merge one of the adapters"
    )


def _check_pair(
    adapter: LoraAdapter, name: str, pair: Pair | BiasShift, parts: Mapping[str, Part]
) -> None:
    _expect(name, parts, f"{adapter.path}: the pair for {name}")
    pair.check_fits(name, parts[name].source)
    if parts[name].rows:
        raise TrainingError(_mixed(adapter, name))


def _check_whole(name: str, tensor: StoredTensor, parts: Mapping[str, Part]) -> None:
    _expect(name, parts, f"{tensor.path}: {tensor.name}")
    there = parts[name].source
    if not {tensor.dtype, there.dtype} <= FLOAT_SIZES.keys():
        raise TrainingError(
            f"{tensor.path}: {tensor.name} is of dtype {tensor.dtype}, the base's of {there.dtype}:"
            " both must be F16, BF16 or F32"
        )
    may_grow = is_end(name)
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
    words = result.parts.get(ends.head or "")
    if words and words.source.shape[0] != rows:
        raise TrainingError(
            f"{ends.embedding} would have {rows} rows and {ends.head} {words.source.shape[0]}:"
            " an adapter with a new vocabulary must hold both (modules_to_save)"
        )
    if rows != rows_before:
        result.config["vocab_size"] = rows


def _drop_or_untie(result: Composition, ends: Ends) -> None:
    """Drop a head that is still the embeddings; else it becomes a tensor of its own."""
    head = str(ends.head)
    if _alike(result.parts[ends.embedding], result.parts[head]):
        del result.parts[head]
        return
    result.config[TIES] = False
    result.notes.append(
        f"{head} is written as a tensor of its own and tie_word_embeddings set to false: an"
        " adapter changed it and the embeddings in different ways"
    )


def _alike(one: Part, other: Part) -> bool:
    changed = (one.pairs, one.rows) != (other.pairs, other.rows) or one.pairs
    return one == other or (not changed and same_values(one.source, other.source))
