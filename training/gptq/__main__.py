"""Quantise a model directory to int4, calibrated on your own training rows (GPTQ).

The linear layers' weights get 4 bits, with a 16-bit scale for each group of inputs; activations
stay as they are. Each layer is rounded so that its outputs on the rows change least, on what the
layers before it, already rounded, make of them. Head, embeddings and norms stay. The output is in
compressed-tensors' format (W4A16), which vLLM serves on GPUs and on CPUs with AVX512. Rows are
rendered as for training: their formats are those of `python -m training.train`.
"""

import argparse
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import NoReturn, get_args

from training.data.settings import Mode
from training.errors import TrainingError
from training.gptq.job import Calibration, Report, calibrate
from training.gptq.layers import GROUPS
from training.gptq.rows import layout_of
from training.model_directory.hub import local_directory
from training.pipes import run

EXAMPLE = """\
examples:
  python -m training.gptq --model models/medical --output models/medical-int4 --data train.json
  python -m training.gptq --model models/medical --output models/medical-int4 \\
      --data mine.json data.prompt=question data.response=answer
  python -m service --model models/medical-int4 --dtype bfloat16
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, or 2 after printing what is wrong."""
    args = _parser().parse_intermixed_args(argv)
    started = time.monotonic()
    try:
        layout = layout_of(args.data, args.max_length, args.setting)
        calibration = Calibration(
            args.data, layout, args.samples, args.max_length, args.seed, args.thinking
        )
        model = local_directory(args.model)
        report = calibrate(model, args.output, calibration, args.group_size, args.ignore)
    except (TrainingError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    _print(report, args.output, time.monotonic() - started)
    return 0


def _print(report: Report, output: Path, seconds: float) -> None:
    errors = report.errors
    worst = max(errors, key=lambda name: errors[name]["outputs"])
    print(
        f"{output}: {len(errors)} layers quantised for {report.samples:,} samples of"
        f" {report.tokens:,} tokens\ntheir outputs move by {_mean(report, 'outputs'):.1%} on"
        f" average ({_mean(report, 'outputs_if_nearest'):.1%} with each weight rounded to its"
        f" nearest), most in {worst}: {errors[worst]['outputs']:.1%}\n"
        f"{report.size / 1e9:.2f} GB in {report.files} file(s), {seconds:.0f} s"
    )
    for note in report.notes:
        print(f"note: {note}")


def _mean(report: Report, name: str) -> float:
    return fmean(errors[name] for errors in report.errors.values())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training.gptq",
        description=__doc__,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--model", required=True, metavar="DIR", help="model directory, or a name on a hub")
    add("--output", type=Path, required=True, metavar="DIR",
        help="model directory to create; must not exist")  # fmt: skip
    add("--data", type=Path, required=True, metavar="FILE", help="training rows to calibrate on")
    add("--samples", type=int, default=128, metavar="N",
        help="rows that are drawn from them (default: %(default)s)")  # fmt: skip
    add("--max-length", type=int, default=512, metavar="TOKENS",
        help="a longer prompt is cut as for training (default: %(default)s)")  # fmt: skip
    add("--group-size", type=int, default=128, choices=GROUPS,
        help="inputs that share a scale (default: %(default)s)")  # fmt: skip
    add("--seed", type=int, default=42, help="which rows are drawn (default: %(default)s)")
    add("--thinking", choices=get_args(Mode), help="as in training, for rows with thoughts")
    add("--ignore", action="append", default=[], metavar="REGEX",
        help="leave layers alone whose names have this in them; repeatable")  # fmt: skip
    add("setting", nargs="*", metavar="data.key=value",
        help="how the rows are laid out, such as data.prompt=question")  # fmt: skip
    return parser


def command() -> NoReturn:
    """`mergeline-gptq`, and `python -m training.gptq`."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that nothing half-written stays
    run(main)


if __name__ == "__main__":
    command()
