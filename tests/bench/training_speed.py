"""Samples a second of training: our default against every row padded to 1,024 tokens.

Run: python -m tests.bench.training_speed   (about three minutes)
One model, one loop, the same samples; only the batches differ. The lengths are those of the 80
official PromptCBLUE example rows, one token a character, cut at 1,024. The original scripts pad
every row to the maximum and compute the output layer for every position, and so does the baseline.
Prints ratios and exits 1 when our default is not 3 times as fast.
"""

import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from random import Random
from typing import Any

from tests.models import tiny_llama
from training.data.batches import Dataset
from training.data.collate import IGNORED, Batch, Features, pad
from training.data.mixture import Part
from training.train.checkpoints import RunProgress
from training.train.config import TrainConfig
from training.train.distributed import Processes
from training.train.loop import fit
from training.train.setup import Run, build_run

LIMIT = 3.0
LONGEST = 1024
VOCABULARY = 1024
SIZES: dict[str, Any] = {
    **{"vocab_size": VOCABULARY, "hidden_size": 256, "intermediate_size": 688},
    **{"num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 4},
    **{"max_position_embeddings": LONGEST},
}
# characters of the prompts, and of the answers, of the official example rows, each sorted
PROMPTS = [
    *(24, 34, 37, 45, 49, 53, 57, 61, 62, 66, 66, 68, 70, 73, 74, 77, 78, 78, 78, 78, 79, 80, 81),
    *(82, 84, 85, 85, 88, 88, 89, 92, 92, 93, 94, 95, 96, 98, 99, 100, 100, 100, 100, 103, 105),
    *(111, 112, 113, 113, 114, 118, 118, 124, 130, 132, 150, 161, 161, 176, 177, 182, 200, 205),
    *(222, 239, 241, 277, 319, 345, 370, 424, 456, 572, 729, 777, 783, 909, 1061, 1220, 1647, 1846),
]
ANSWERS = [
    *(2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 5, 5, 5, 5, 5, 6, 7),
    *(7, 7, 8, 8, 10, 10, 10, 10, 13, 13, 13, 14, 19, 21, 28, 32, 34, 35, 39, 42, 43, 45, 46, 48),
    *(48, 49, 50, 53, 61, 68, 70, 78, 79, 87, 92, 99, 102, 105, 110, 110, 121, 121, 125, 135, 192),
    *(202, 232, 234, 681),
]


def main() -> int:
    root = Path("build/bench/training_speed")
    shutil.rmtree(root, ignore_errors=True)
    tiny_llama(root / "base", **SIZES)
    rows = samples()
    ways = {
        "padded to 1,024": as_original(run(root / "padded", rows, "grouped")),
        "grouped (default)": run(root / "grouped", rows, "grouped"),
        "packed": run(root / "packed", rows, "packed"),
    }
    best = dict.fromkeys(ways, 0.0)
    for _ in range(2):  # one after the other and again: the machine may be busy
        for name, way in ways.items():
            started = time.monotonic()
            fit(way, RunProgress())
            speed = way.order.updates * way.order.batch_size / (time.monotonic() - started)
            best[name] = max(best[name], speed)
            shutil.rmtree(way.folder / f"checkpoint-{way.order.updates}")
    shutil.rmtree(root)
    base = best["padded to 1,024"]
    for name, speed in best.items():
        print(f"{name:18} {speed:7.1f} samples/s  {speed / base:5.2f} x")
    return int(best["grouped (default)"] < LIMIT * base)


def samples() -> list[Features]:
    """Random tokens in rows as long as the official ones, answers and prompts paired at random."""
    rng = Random(0)
    rows: list[Features] = []
    for prompt, answer in zip(rng.sample(PROMPTS, 80), rng.sample(ANSWERS, 80), strict=True):
        room = LONGEST - answer
        ids = [rng.randrange(1, VOCABULARY) for _ in range(min(prompt, room) + answer)]
        rows.append({"input_ids": ids, "labels": [IGNORED] * (len(ids) - answer) + ids[-answer:]})
    return rows


def run(folder: Path, rows: Sequence[Features], batching: str) -> Run:
    """One epoch of LoRA over `rows`, eight samples an update."""
    settings = {
        **{"model": folder.parent / "base", "output": folder / "adapter", "precision": "fp32"},
        **{"data": {"train": "unused", "batching": batching}, "lora": {"dropout": 0.0}},
        **{"log_every": 1000},
        **{"optim": {"epochs": 1, "batch_size": 8}},
    }
    import torch

    config = TrainConfig.model_validate(settings)
    one = Processes(0, 1, torch.device("cpu"))
    data = Dataset(rows, (Part(len(rows), Fraction(len(rows))),))
    return build_run(config, {"train": data}, 0, one, folder)[0]


def as_original(ours: Run) -> Run:
    """The same run on rows in random order, padded to the maximum, logits for every position."""

    def collate(rows: Sequence[Features]) -> Batch:
        filler: Features = {"input_ids": [0] * LONGEST, "labels": [IGNORED] * LONGEST}
        return {name: tensor[:-1] for name, tensor in pad([*rows, filler], 0).items()}

    return replace(
        ours,
        collate=collate,
        order=replace(ours.order, grouped=False),
        loss=replace(ours.loss, keeps_logits=False),
    )


if __name__ == "__main__":
    sys.exit(main())
