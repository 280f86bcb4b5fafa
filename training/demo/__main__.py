"""`python -m training.demo`: everything that the demo needs before fine-tuning."""

import argparse
import sys
from pathlib import Path

from training.errors import TrainingError
from training.pipes import run

_ABOUT = """\
Build the demo: data in PromptCBLUE's format for all sixteen tasks, made from rules, and a tiny
LLaMA pre-trained on the questions and a small textbook. Takes about two minutes on two cores.

  OUTPUT/data/train.json, dev.json   samples with answers
  OUTPUT/data/test.json              answers left empty, for the client to fill
  OUTPUT/data/test_gold.json         the test samples with their answers, for scoring
  OUTPUT/base/                       the model directory to fine-tune

A part that exists is kept: remove OUTPUT/data or OUTPUT/base to have it built again.
"""
_NEXT = "next: python -m training.train --config training/recipes/demo_lora.yaml"


def main() -> None:
    """Parse the command line and build; bad input ends with exit status 2."""
    parser = argparse.ArgumentParser(
        prog="python -m training.demo",
        description=_ABOUT,
        epilog=_NEXT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--output", type=Path, default=Path("build/demo"), help="%(default)s")
    parser.add_argument("--seed", type=int, default=13, help="decides every sample; %(default)s")
    arguments = parser.parse_args()
    from training.demo import build_demo

    try:
        build_demo(arguments.output, arguments.seed)
    except TrainingError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print(f"the demo is in {arguments.output}\n{_NEXT}")


if __name__ == "__main__":
    run(main)
