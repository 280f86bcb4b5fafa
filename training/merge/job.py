"""One merge: a base and adapters in, a checked model directory out."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

from training.errors import TrainingError
from training.files import write_aside
from training.merge.composition import compose
from training.merge.learnt_on.late import look, noted_losses
from training.merge.merged_weights import Written, write_merged
from training.merge.peft_adapter import LoraAdapter, read_adapter
from training.merge.prefix_files import (
    PrefixAdapter,
    config_changes,
    is_prefix,
    read_prefix,
    refuse_prefixed,
    write_prefix,
)
from training.merge.quantisation import Quantisation, described
from training.merge.verdict import Verdict
from training.model_directory.directory import read_model_directory
from training.model_directory.model_files import copy_model_files
from training.model_directory.provenance import write_provenance
from training.weights.quantising import Error
from training.weights.rounding import Tally
from training.weights.safetensors_stream import FLOAT_SIZES, StoredTensor
from training.weights.shards import Shard, plan_shards, total_size
from training.weights.torch_files import CODES


@dataclass(frozen=True)
class WeightsFormat:
    """How the output's weights are written.

    `dtype` is float16, bfloat16 or float32, None keeps each tensor's own; `max_shard_size` is in
    bytes.
    """

    dtype: str | None = None
    max_shard_size: int = 2 * 10**9
    quantisation: Quantisation | None = None

    @property
    def code(self) -> str | None:
        """Of the dtype, in safetensors."""
        return CODES.get(self.dtype)


AS_IN_THE_BASE = WeightsFormat()


@dataclass(frozen=True)
class MergeReport:
    """What a merge did: counts of tensors, bytes and files, the rounding tally, notes.

    `dtype` is that of most of the weights written: F16, BF16 or F32.
    """

    tensors: int
    changed: int
    size: int
    files: int
    dtype: str
    tally: Tally
    notes: list[str]
    verdict: Verdict | None = None
    errors: dict[str, Error] = field(default_factory=dict)
    """Of quantised weights, by name."""


def merge(
    base: Path,
    adapters: Sequence[Path],
    output: Path,
    wanted: WeightsFormat = AS_IN_THE_BASE,
    prompts: Sequence[str] = (),
) -> MergeReport:
    """Merge `adapters`, if there are any, into `base` and write the model directory `output`.

    With `prompts` the merged model is verified on them before it appears.
    Raises TrainingError for bad input, a result that is not finite, or a failed check; no output
    then.
    """
    with write_aside(output) as aside:
        source = read_model_directory(base)
        refuse_prefixed(source)
        prefix = _read_prefix(adapters, bool(prompts))
        loras = [] if prefix else _read_adapters(adapters)
        model = compose(source, loras)
        scales = wanted.quantisation.apply(source, model) if wanted.quantisation else []
        shards = plan_shards(model.planned(), aside, wanted.max_shard_size, wanted.code, scales)
        changes = {**model.config, "dtype": wanted.dtype}
        if prefix:
            changes |= config_changes(source, prefix)
            write_prefix(aside, source, prefix)
        learnt = look(source, adapters, model.parts)
        notes = source.notes + model.notes + learnt.notes
        notes += copy_model_files(source, adapters, aside, changes, model.rows)
        written = write_merged(shards, model.parts, wanted.quantisation)
        _check_changed(loras, written)
        report = _report(shards, written, notes)
        report = _verified(report, base, loras, aside, prompts)
        used = [prefix] if prefix else loras
        details = {**learnt.details, **_details(report, wanted.dtype)}
        write_provenance(aside, base, used, written.sums, details)
    return report


def _verified(
    report: MergeReport,
    base: Path,
    loras: Sequence[LoraAdapter],
    merged: Path,
    prompts: Sequence[str],
) -> MergeReport:
    if not prompts:
        return report
    from training.merge.verify import verify  # late: a merge alone needs no torch

    verdict = verify(base, loras, merged, report.dtype, prompts)
    notes = noted_losses(base, [each.path for each in loras], merged, prompts)
    return replace(report, verdict=verdict, notes=[*report.notes, *notes])


def _check_changed(loras: Sequence[LoraAdapter], written: Written) -> None:
    if loras and not written.changed:
        raise TrainingError(
            "rounding leaves nothing of the adapters' change: merge with --dtype float32"
        )


def _read_prefix(adapters: Sequence[Path], verified: bool) -> PrefixAdapter | None:
    """The prefix, when that is what is to be put into the directory."""
    prefixes = [path for path in adapters if is_prefix(path)]
    if not prefixes:
        return None
    if len(adapters) > 1:
        raise TrainingError(
            f"{prefixes[0]} is a prefix, which goes into a model directory alone: merge the others"
            " first, then this one into the result"
        )
    if verified:
        raise TrainingError(f"{prefixes[0]} is a prefix: --verify checks changed weights only")
    return read_prefix(prefixes[0])


def _read_adapters(paths: Sequence[Path]) -> list[LoraAdapter]:
    adapters = [read_adapter(path) for path in paths]
    for adapter in adapters:
        if adapter.config.get("use_dora") and len(adapters) > 1:
            raise TrainingError(
                f"{adapter.path} is a DoRA adapter (use_dora), which fixes the length of the"
                " weights' rows and so cannot be added to others: merge it alone"
            )
    return adapters


def _report(shards: Sequence[Shard], written: Written, notes: list[str]) -> MergeReport:
    tensors = [*chain(*shards)]
    size, dtype, changed = total_size(shards), _main_dtype(tensors), len(written.changed)
    return MergeReport(
        len(tensors), changed, size, len(shards), dtype, written.tally, notes, errors=written.errors
    )


def _main_dtype(tensors: Sequence[StoredTensor]) -> str:
    sizes: Counter[str] = Counter()
    for tensor in tensors:
        sizes[tensor.dtype] += tensor.size
    return max(FLOAT_SIZES, key=sizes.__getitem__)


def _details(report: MergeReport, dtype: str | None) -> dict[str, object]:
    verdict = report.verdict and {"verify": report.verdict.as_dict()}
    return {
        "dtype": dtype or "as in the base",
        "check": {
            "tensors": report.tensors,
            "changed": report.changed,
            "rms_change": report.tally.mean_change,
            "lost_to_rounding": report.tally.lost_share,
            **(verdict or {}),
            **described(report.errors),
        },
    }
