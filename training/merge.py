"""Merge LoRA adapters into a base model, one tensor at a time.

Every weight becomes W + (sum of all adapters' scale · B @ A), computed in fp64 and rounded once.
Nothing but a few megabytes of weights is in memory at any moment.
"""

import argparse
import atexit
import gc
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from training.adapter_files import Adapter, read_adapter
from training.composition import compose
from training.errors import TrainingError
from training.files import write_aside
from training.hub import local_directory
from training.merged_weights import Written, write_weights
from training.model_files import copy_model_files, read_config
from training.pipes import run
from training.prefix_files import (
    PrefixAdapter,
    config_changes,
    is_prefix,
    read_prefix,
    refuse_prefixed,
    write_prefix,
)
from training.provenance import write_provenance
from training.rounding import Tally
from training.safetensors_stream import FLOAT_SIZES, TORCH_NAMES, StoredTensor
from training.shards import Shard, check_shards, plan_shards
from training.sizes import size_in_bytes
from training.verify import PROMPTS, UnfaithfulMergeError, Verdict, verify
from training.weights import read_model

EXAMPLE = """\
example:
  python -m training.merge --base llama-7b --adapter runs/alpha --output models/alpha

Several adapters are added up before the one rounding. Whole tensors in them (modules_to_save:
embeddings, heads, norms) replace the base's, so that the last adapter wins; tokenizer and chat
template, too, come from the last adapter that has them, else from the base.
The output appears only when it is complete and checked; it must not exist before. provenance.json
in it says what was merged and holds the sha256 of every weights file.
"""
LOST_SHARE_WARNING = 0.10  # of the change's norm; fp16 loses about 2 % of the bench's adapter


@dataclass(frozen=True)
class Report:
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


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, or after printing what is wrong 2, or 1 if --verify fails."""
    args = _parse(argv)
    prompts = args.verify_prompt or (PROMPTS if args.verify else ())
    started = time.monotonic()
    try:
        base, *adapters = (local_directory(name) for name in (args.base, *args.adapter))
        report = merge(base, adapters, args.output, args.max_shard_size, args.dtype, prompts)
    except (TrainingError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1 if isinstance(error, UnfaithfulMergeError) else 2
    _print(report, args.output, time.monotonic() - started)
    return 0


def merge(
    base: Path,
    adapters: Sequence[Path],
    output: Path,
    max_shard_size: int = 2 * 10**9,
    dtype: str | None = None,
    prompts: Sequence[str] = (),
) -> Report:
    """Merge `adapters` into `base` and write the model directory `output`.

    `max_shard_size` is in bytes; `dtype` is float16, bfloat16 or float32, None keeps each
    tensor's own. With `prompts` the merged model is verified on them before it appears.

    Raises:
        TrainingError: bad input, a result that is not finite, or a failed check; no output then.
    """
    code = {name: code for code, name in TORCH_NAMES.items()}.get(dtype or "")
    with write_aside(output) as aside:
        config = read_config(base)
        refuse_prefixed(base, config)
        prefix = _read_prefix(adapters, bool(prompts))
        loras = [] if prefix else _read_adapters(adapters)
        model = compose(read_model(base), loras, bool(config.get("tie_word_embeddings")))
        shards = plan_shards(model.planned(), aside, max_shard_size, code)
        changes = model.config | ({"dtype": dtype} if dtype else {})
        if prefix:
            changes |= config_changes(base, config, prefix)
            write_prefix(aside, config, prefix)
        notes = model.notes + copy_model_files(base, adapters, aside, changes, model.rows)
        written = write_weights(shards, model.parts)
        _check_changed(loras, written)
        check_shards(shards, written.sums)
        report = _report(shards, written, notes)
        if prompts:
            verdict = verify(base, loras, aside, report.dtype, prompts)
            report = replace(report, verdict=verdict)
        used = [prefix] if prefix else loras
        write_provenance(aside, base, used, written.sums, _details(report, dtype))
    return report


def _check_changed(loras: Sequence[Adapter], written: Written) -> None:
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


def _read_adapters(paths: Sequence[Path]) -> list[Adapter]:
    adapters = [read_adapter(path) for path in paths]
    for adapter in adapters:
        if adapter.config.get("use_dora") and len(adapters) > 1:
            raise TrainingError(
                f"{adapter.path} is a DoRA adapter (use_dora), which fixes the length of the"
                " weights' rows and so cannot be added to others: merge it alone"
            )
    return adapters


def _report(shards: Sequence[Shard], written: Written, notes: list[str]) -> Report:
    tensors = [tensor for shard in shards for tensor in shard]
    size = sum(tensor.size for tensor in tensors)
    changed = len(written.changed)
    return Report(
        len(tensors), changed, size, len(shards), _main_dtype(tensors), written.tally, notes
    )


def _main_dtype(tensors: Sequence[StoredTensor]) -> str:
    sizes = dict.fromkeys(FLOAT_SIZES, 0)
    for tensor in tensors:
        if tensor.dtype in sizes:
            sizes[tensor.dtype] += tensor.size
    return max(sizes, key=lambda dtype: sizes[dtype])


def _details(report: Report, dtype: str | None) -> dict[str, object]:
    verdict = report.verdict and {"verify": report.verdict.as_dict()}
    return {
        "dtype": dtype or "as in the base",
        "check": {
            "tensors": report.tensors,
            "changed": report.changed,
            "rms_change": report.tally.mean_change,
            "lost_to_rounding": report.tally.lost_share,
            **(verdict or {}),
        },
    }


def _print(report: Report, output: Path, seconds: float) -> None:
    tally = report.tally
    print(
        f"{output}: {report.changed} of {report.tensors} tensors changed,"
        f" {report.size / 1e9:.2f} GB in {report.files} file(s), {seconds:.1f} s\n"
        f"the change is {tally.mean_change:.2g} (root mean square); rounding to"
        f" {TORCH_NAMES[report.dtype]} lost {tally.lost_share:.1%} of it"
    )
    if report.verdict:
        print(report.verdict)
    for note in report.notes:
        print(f"note: {note}")
    if tally.lost_share > LOST_SHARE_WARNING:
        print(f"warning: {_lost(report)}", file=sys.stderr)


def _lost(report: Report) -> str:
    finer = "float16 loses an eighth of that, --dtype " if report.dtype == "BF16" else ""
    return (
        f"{TORCH_NAMES[report.dtype]} is too coarse for this adapter: rounding lost"
        f" {report.tally.lost_share:.0%} of its change; --dtype {finer}float32 loses nothing"
    )


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m training.merge",
        description=__doc__,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = partial(parser.add_argument, metavar="DIR", required=True)
    add("--base", help="model directory, its weights as safetensors or .bin; or a name on the hub")
    add("--adapter", action="append", help="adapter directory saved by peft, or a name; repeatable")
    add("--output", type=Path, help="model directory to create; must not exist")
    parser.add_argument(
        "--max-shard-size",
        type=size_in_bytes,
        default="2GB",
        metavar="SIZE",
        help="largest weights file, such as 500MB or 4GiB (default: %(default)s)",
    )
    parser.add_argument(
        "--dtype",
        choices=sorted(TORCH_NAMES.values()),
        help="dtype of the output's weights (default: each tensor's own)",
    )
    parser.add_argument(
        "--verify",
        action="store_true",
        help="compare the logits with those of base and adapters before the output appears; loads"
        " both models whole in fp32, one after the other: 4 bytes of memory a parameter, minutes"
        " of computing for a large one",
    )
    parser.add_argument(
        "--verify-prompt",
        action="append",
        metavar="TEXT",
        help="verify on this text instead of the built-in ones; repeatable",
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that nothing half-written stays
    gc.disable()  # nothing here makes cycles worth looking for
    # else the interpreter looks for them before it ends, through all that was loaded
    atexit.register(gc.freeze)
    run(main)
