"""Train an adapter: `python -m training.train --config RECIPE [key=value …]`.

LoRA, AdaLoRA or a prefix, as the recipe says. Checkpoints go to OUTPUT.run/ while it trains;
OUTPUT appears when the adapter is complete.
"""

import argparse
import sys
from pathlib import Path
from typing import NoReturn

from training.errors import TrainingError
from training.pipes import run
from training.train.config import TrainConfig, load_config
from training.train.job import inspect, show, train
from training.train.rank import is_first_of_node

EPILOG = """\
examples:
  python -m training.train --config llama_lora \\
      model=llama-7b-hf output=adapters/cblue data.train=train.json data.eval=dev.json
  python -m training.train --config llama_lora optim.lr=1e-4 lora.r=16
  python -m training.train --config my.yaml --check      # of the data, without a model
  python -m training.train --config my.yaml --preview 3  # what is learned, marked
  python -m training.train --config my.yaml --resume     # goes on from the newest checkpoint
  torchrun --nproc-per-node 2 -m training.train --config my.yaml               # two GPUs
  torchrun --nproc-per-node 8 -m training.train --config my.yaml parallel=fsdp # base shared out
  torchrun --nnodes 2 --node-rank 0 --master-addr HOST --nproc-per-node 8 -m training.train \
      --config my.yaml --resume-if-started       # on two nodes that share the output's folder

Every key of the recipe can be overridden; training/README.md explains them all.
"""


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and train; 0 when done, 1 for data with faults, 2 for bad input."""
    args = _parser().parse_intermixed_args(arguments)
    try:
        config = load_config(args.config, args.override)
        if args.preview is not None or args.check:
            return _look(config, args)
        train(config, resume=args.resume, if_started=args.resume_if_started)
    except (TrainingError, OSError) as error:
        if is_first_of_node():
            print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped: --resume goes on from the newest checkpoint", file=sys.stderr)
        return 130
    return 0


def _look(config: TrainConfig, args: argparse.Namespace) -> int:
    """Show the data instead of training on it."""
    if not args.check:
        show(config, args.preview)
        return 0
    report = inspect(config)
    print(report.as_json() if args.json else report.as_text())
    return int(report.refused)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training.train",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--config",
        type=Path,
        required=True,
        metavar="RECIPE",
        help="a YAML file, or the name of one that comes with mergeline, such as llama_lora",
    )
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="go on from the newest checkpoint")
    again.add_argument(
        "--resume-if-started",
        action="store_true",
        help="for jobs that are started again with the same command line: go on when this run was "
        "begun before, begin it when not, and end at once when its adapter is there",
    )
    _add_looks(parser.add_argument_group("look at the data, and end"))
    parser.add_argument("override", nargs="*", metavar="key=value", help="replaces a recipe's key")
    return parser


def _add_looks(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--preview",
        type=int,
        metavar="N",
        help="print N samples as text and token ids, with what is learned in ⟦ ⟧",
    )
    group.add_argument(
        "--check",
        action="store_true",
        help="report on all rows: what training would refuse (then exit 1), cut prompts,"
        " duplicates, rows shared with data.eval and data.test, lengths, labels by task",
    )
    group.add_argument("--json", action="store_true", help="the report of --check as JSON")


def command() -> NoReturn:
    """`mergeline-train`, and `python -m training.train`."""
    run(main)


if __name__ == "__main__":
    command()
