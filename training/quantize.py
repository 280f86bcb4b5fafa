"""Quantise a model directory to 8 bits, a few megabytes at a time.

The linear layers' weights become int8 or fp8 with a scale for each row, the nearest ones to the
weights as they are; head, embeddings and norms stay. The output is in compressed-tensors' format.
To quantise a model with adapters, let `python -m training.merge --quantize` do it in one go: it
rounds once, from the exact sum.
"""

import argparse
import gc
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from training.errors import TrainingError
from training.merge.__main__ import add_quantising, quantisation_of
from training.merge.job import WeightsFormat, merge
from training.merge.quantisation import told
from training.model_directory.hub import local_directory
from training.pipes import run

EXAMPLE = """\
example:
  python -m training.quantize --model models/medical --output models/medical-int8 --scheme int8
  python -m service --model models/medical-int8
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, or 2 after printing what is wrong."""
    args = _parser().parse_args(argv)
    started = time.monotonic()
    try:
        wanted = WeightsFormat(quantisation=quantisation_of(args, args.scheme))
        report = merge(local_directory(args.model), [], args.output, wanted)
    except (TrainingError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(
        f"{args.output}: {told(report.errors)}\n{report.size / 1e9:.2f} GB in {report.files}"
        f" file(s), {time.monotonic() - started:.1f} s"
    )
    for note in report.notes:
        print(f"note: {note}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training.quantize",
        description=__doc__,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--model", required=True, metavar="DIR", help="model directory, or a name on a hub")
    add("--output", type=Path, required=True, metavar="DIR",
        help="model directory to create; must not exist")  # fmt: skip
    add_quantising(add, "--scheme", required=True)
    return parser


def command() -> NoReturn:
    """`mergeline-quantize`, and `python -m training.quantize`."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that nothing half-written stays
    gc.disable()  # nothing here makes cycles worth looking for
    run(main)


if __name__ == "__main__":
    command()
