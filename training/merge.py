"""Merge LoRA adapters into a base model, one tensor at a time.

Every weight becomes W + (sum of all adapters' scale · B @ A), computed in fp32 and rounded once.
Nothing but a few megabytes of weights is in memory at any moment.
"""

import argparse
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tqdm import tqdm

from training.errors import TrainingError
from training.files import write_aside
from training.lora import Adapter, low_rank, read_adapter
from training.model_files import copy_model_files, read_config
from training.provenance import write_provenance
from training.rounding import Tally, copy_chunks, merge_chunks
from training.safetensors_stream import TORCH_NAMES, StoredTensor, read_model
from training.shards import Shard, check_shards, plan_shards, write_index, write_shard

EXAMPLE = """\
example:
  python -m training.merge --base llama-7b --adapter runs/alpha --output models/alpha

Several adapters are added up before the one rounding, so their order does not matter to the
weights; tokenizer and chat template come from the last adapter that has them, else from the base.
The output appears only when it is complete and checked; it must not exist before. provenance.json
in it says what was merged and holds the sha256 of every weights file.
"""
LOST_SHARE_WARNING = 0.10
UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "KI": 2**10, "MI": 2**20, "GI": 2**30}


@dataclass(frozen=True)
class Report:
    """What a merge did: counts of tensors, bytes and files, the rounding tally, notes."""

    tensors: int
    size: int
    files: int
    tally: Tally
    notes: list[str]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, or 2 after printing what is wrong."""
    args = _parse(argv)
    started = time.monotonic()
    import torch

    torch.set_num_threads(1)  # faster: the work is bound by memory
    try:
        report = merge(args.base, args.adapter, args.output, args.max_shard_size, args.dtype)
    except (TrainingError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    _print(report, args.output, time.monotonic() - started)
    return 0


def merge(
    base: Path,
    adapters: Sequence[Path],
    output: Path,
    max_shard_size: int = 2 * 10**9,
    dtype: str | None = None,
) -> Report:
    """Merge `adapters` into `base` and write the model directory `output`.

    `max_shard_size` is in bytes; `dtype` is float16, bfloat16 or float32, None keeps each
    tensor's own.

    Raises:
        TrainingError: bad input, a result that is not finite, or a failed check; no output then.
    """
    code = {name: code for code, name in TORCH_NAMES.items()}.get(dtype or "")
    with write_aside(output) as aside:
        config = read_config(base)
        source = read_model(base)
        loras = [read_adapter(path, source) for path in adapters]
        _refuse_tied_head(config, loras)
        shards = plan_shards(source.values(), aside, max_shard_size, code)
        tally = Tally()
        sums = _write_weights(shards, source, loras, tally)
        check_shards(shards, sums)
        notes = copy_model_files(base, adapters, aside, dtype)
        report = Report(len(source), _size(shards), len(shards), tally, notes)
        write_provenance(aside, base, loras, sums, _details(report, dtype))
    return report


def _refuse_tied_head(config: Mapping[str, object], adapters: Sequence[Adapter]) -> None:
    for adapter in adapters:
        if config.get("tie_word_embeddings") and "lm_head.weight" in adapter.pairs:
            raise TrainingError(
                f"{adapter.path} changes lm_head, which this base ties to its embeddings, so the"
                " change would be lost on loading: train without lm_head as a target"
            )


def _write_weights(
    shards: Sequence[Shard],
    source: Mapping[str, StoredTensor],
    adapters: Sequence[Adapter],
    tally: Tally,
) -> dict[str, str]:
    """Write every shard and the index; return the sha256 of each file by name."""
    sums = {}
    with tqdm(total=_size(shards), unit="B", unit_scale=True, desc="merge", disable=None) as bar:
        for shard in shards:
            chunks = _shard_chunks(shard, source, adapters, tally, bar.update)
            sums[shard[0].path.name] = write_shard(shard, chunks)
    write_index(shards)
    if not tally.changed:
        raise TrainingError(
            "rounding leaves nothing of the adapters' change: merge with --dtype float32"
        )
    return sums


def _shard_chunks(
    shard: Shard,
    source: Mapping[str, StoredTensor],
    adapters: Sequence[Adapter],
    tally: Tally,
    progress: Callable[[int], object],
) -> Iterator[bytearray]:
    for target in shard:
        weight = source[target.name]
        change = low_rank(adapters, target.name)
        chunks = (
            merge_chunks(weight, target.dtype, *change, tally)
            if change
            else copy_chunks(weight, target.dtype)
        )
        for chunk in chunks:
            yield chunk
            progress(len(chunk))


def _size(shards: Sequence[Shard]) -> int:
    return sum(tensor.size for shard in shards for tensor in shard)


def _details(report: Report, dtype: str | None) -> dict[str, object]:
    return {
        "dtype": dtype or "as in the base",
        "check": {
            "tensors": report.tensors,
            "changed": report.tally.changed,
            "max_abs_delta": report.tally.max_delta,
            "lost_to_rounding": report.tally.lost_share,
        },
    }


def _print(report: Report, output: Path, seconds: float) -> None:
    tally = report.tally
    print(
        f"{output}: {tally.changed} of {report.tensors} tensors changed,"
        f" {report.size / 1e9:.2f} GB in {report.files} file(s), {seconds:.1f} s\n"
        f"largest change {tally.max_delta:.3g}; rounding lost {tally.lost_share:.1%} of the change"
    )
    for note in report.notes:
        print(f"note: {note}")
    if tally.lost_share > LOST_SHARE_WARNING:
        print(
            "warning: rounding lost more than"
            f" {LOST_SHARE_WARNING:.0%} of the change; --dtype float32 keeps it",
            file=sys.stderr,
        )


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m training.merge",
        description=__doc__,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = partial(parser.add_argument, metavar="DIR", type=Path, required=True)
    add("--base", help="model directory: config.json, *.safetensors")
    add("--adapter", action="append", help="adapter directory saved by peft; repeatable")
    add("--output", help="model directory to create; must not exist")
    parser.add_argument(
        "--max-shard-size",
        type=_bytes,
        default="2GB",
        metavar="SIZE",
        help="largest weights file, such as 500MB or 4GiB (default: %(default)s)",
    )
    parser.add_argument(
        "--dtype",
        choices=sorted(TORCH_NAMES.values()),
        help="dtype of the output's weights (default: each tensor's own)",
    )
    return parser.parse_args(argv)


def _bytes(text: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)((?:[KMG]I?)?)B?", text.upper())
    if not match or not float(match[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 500MB, 2GB or 4GiB")
    return int(float(match[1]) * UNITS[match[2]])


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that nothing half-written stays
    sys.exit(main())
