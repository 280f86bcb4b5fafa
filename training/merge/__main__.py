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
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import NoReturn

from training.errors import TrainingError
from training.merge.job import MergeReport, WeightsFormat, merge
from training.merge.learnt_on.late import dequantised_base
from training.merge.quantisation import Quantisation, told
from training.merge.verdict import PROMPTS, UnfaithfulMergeError
from training.model_directory.hub import local_directory
from training.pipes import run
from training.sizes import size_in_bytes
from training.weights.quantising import SCHEMES
from training.weights.safetensors_stream import TORCH_NAMES

EXAMPLE = """\
example:
  python -m training.merge --base llama-7b --adapter runs/alpha --output models/alpha

Several adapters are added up before the one rounding. Whole tensors in them (modules_to_save:
embeddings, heads, norms) replace the base's, so that the last adapter wins; tokenizer and chat
template, too, come from the last adapter that has them, else from the base.
A name on a hub is ORG/NAME, or modelscope:ORG/NAME, with @REVISION if need be.
The output appears only when it is complete and checked; it must not exist before. provenance.json
in it says what was merged and holds the sha256 of every weights file.
"""
LOST_SHARE_WARNING = 0.10  # of the change's norm; fp16 loses about 2 % of the bench's adapter


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, or after printing what is wrong 2, or 1 if --verify fails."""
    args = _parse(argv)
    prompts = args.verify_prompt or (PROMPTS if args.verify else ())
    started = time.monotonic()
    try:
        base, *adapters = (local_directory(name) for name in (args.base, *args.adapter))
        wanted = WeightsFormat(
            args.dtype, args.max_shard_size, quantisation_of(args, args.quantize)
        )
        exact = args.into == "dequantised"
        with dequantised_base(base, adapters, args.output) if exact else nullcontext(base) as into:
            report = merge(into, adapters, args.output, wanted, prompts)
    except (TrainingError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1 if isinstance(error, UnfaithfulMergeError) else 2
    _print(report, args.output, time.monotonic() - started)
    return 0


def _print(report: MergeReport, output: Path, seconds: float) -> None:
    tally = report.tally
    size = f"{report.size / 1e9:.2f} GB in {report.files} file(s), {seconds:.1f} s"
    if report.errors:
        print(f"{output}: {told(report.errors)}\n{size}")
    else:
        print(
            f"{output}: {report.changed} of {report.tensors} tensors changed, {size}\n"
            f"the change is {tally.mean_change:.2g} (root mean square); rounding to"
            f" {TORCH_NAMES[report.dtype]} lost {tally.lost_share:.1%} of it"
        )
    if report.verdict:
        print(report.verdict)
    for note in report.notes:
        print(f"note: {note}")
    if tally.lost_share > LOST_SHARE_WARNING:
        print(f"warning: {_lost(report)}", file=sys.stderr)


def _lost(report: MergeReport) -> str:
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
    add("--base", help="model directory, its weights as safetensors or .bin; or a name on a hub")
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
    add_quantising(parser.add_argument, "--quantize")
    _add_into(parser)
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


def _add_into(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--into",
        choices=("base", "dequantised"),
        default="base",
        help="for adapters trained with quantization=nf4 or int8: into the base as it is, or into"
        " what they were trained on, its quantised weights' values, which takes as much disk again"
        " while it runs (default: %(default)s)",
    )


def add_quantising(add: Callable[..., object], name: str, **more: object) -> None:
    """The arguments that say how weights are quantised; `name` is that of the scheme's."""
    add(
        name,
        choices=sorted(SCHEMES),
        **more,
        help="8-bit weights of the linear layers, a scale for each row, rounded once from the exact"
        " sum; in compressed-tensors' format, which vLLM computes with 8-bit activations",
    )
    add(
        "--clip",
        action="store_true",
        help="search each row's scale for the smallest squared error (slower); without it no"
        " weight is clipped",
    )
    add(
        "--reduce-range",
        action="store_true",
        help="int8 codes of 7 bits, for x86 processors without VNNI, where products of 8 overflow"
        " (Intel's before Cascade Lake and Ice Lake, AMD's before Zen 4)",
    )
    add(
        "--ignore",
        action="append",
        default=[],
        metavar="REGEX",
        help="leave layers alone whose names have this in them; repeatable",
    )


def quantisation_of(args: argparse.Namespace, scheme: str | None) -> Quantisation | None:
    """What add_quantising's arguments say. Raises TrainingError where they say nothing together."""
    how = {name: getattr(args, name) for name in ("clip", "ignore", "reduce_range")}
    if scheme:
        return Quantisation.of(scheme, **how)
    if any(how.values()):
        name = next(name for name, value in how.items() if value).replace("_", "-")
        raise TrainingError(f"--{name} says how to quantise: give --quantize int8 or fp8 too")
    return None


def command() -> NoReturn:
    """`mergeline-merge`, and `python -m training.merge`."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that nothing half-written stays
    gc.disable()  # nothing here makes cycles worth looking for
    # else the interpreter looks for them before it ends, through all that was loaded
    atexit.register(gc.freeze)
    run(main)


if __name__ == "__main__":
    command()
