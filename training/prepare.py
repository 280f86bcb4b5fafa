"""Make the demo from nothing: data, a tiny base model, a LoRA adapter, the merged model.

DIR gets data/, base/, adapter/ and model/. What is complete already is kept, and an interrupted
training goes on from its newest checkpoint, so that the same command can simply be run again.
"""

import argparse
import signal
import sys
from pathlib import Path

from training.errors import TrainingError
from training.merge.job import merge
from training.pipes import run
from training.train.config import load_config
from training.train.job import train
from training.train.record import run_directory

RECIPE = Path(__file__).parent / "recipes" / "demo_lora.yaml"


def prepare(output: Path) -> Path:
    """Build what is missing under `output`; the model directory to serve is returned.

    Raises TrainingError when a part cannot be made.
    """
    base, adapter, model = output / "base", output / "adapter", output / "model"
    if (model / "config.json").is_file():
        print(f"{model} is ready")
        return model
    from training.demo import build_demo  # late: torch takes seconds, --help none

    build_demo(output)
    if not adapter.exists():
        places = {
            "model": base,
            "output": adapter,
            "data.train": output / "data" / "train.json",
            "data.eval": output / "data" / "dev.json",
        }
        config = load_config(RECIPE, [f"{key}={path}" for key, path in places.items()])
        train(config, resume=(run_directory(config) / "training.yaml").exists())
    merge(base, [adapter], model)
    print(f"{model} is ready")
    return model


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and prepare; 0 when the model is there, 2 when it cannot be made."""
    parser = argparse.ArgumentParser(
        prog="python -m training.prepare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--output", type=Path, default=Path("build/demo"), metavar="DIR", help="%(default)s"
    )
    try:
        prepare(parser.parse_args(arguments).output)
    except TrainingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that nothing half-written stays
    run(main)
