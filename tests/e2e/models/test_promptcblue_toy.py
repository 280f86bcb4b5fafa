"""The official example files of PromptCBLUE go the whole way: train, merge, serve, predict.

They may not be redistributed, so they are no part of this repository: PROMPTCBLUE_TOY names the
folder that holds train.json, dev.json and test.json.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import ROOT
from tests.server import serving

FOLDER = os.environ.get("PROMPTCBLUE_TOY")


@pytest.mark.skipif(not FOLDER, reason="PROMPTCBLUE_TOY does not name the official example files")
def test_the_official_example_files_go_the_whole_way(
    demo: Path, logs: Path, tmp_path: Path
) -> None:
    data, adapter, model = Path(str(FOLDER)), tmp_path / "adapter", tmp_path / "model"
    run(
        "-m", "training.train", "--config", "training/recipes/llama_lora.yaml",
        f"model={demo / 'base'}", f"output={adapter}", "precision=fp32", "data.max_length=2048",
        f"data.train={data / 'train.json'}", f"data.eval={data / 'dev.json'}",
        "optim.steps=10", "optim.batch_size=4",
    )  # fmt: skip
    run("-m", "training.merge", "--base", demo / "base", "--adapter", adapter, "--output", model)
    output = tmp_path / "test_predictions.json"
    with serving(model, logs / "toy.log") as server:
        run(
            "client/predict_testset.py", "--url", server.url, "--input", data / "test.json",
            "--output", output, "--parameters", '{"max_tokens": 16, "min_tokens": 4}',
        )  # fmt: skip
    asked, answered = rows(data / "test.json"), rows(output)
    assert len(asked) == len(answered) == 80
    for question, answer in zip(asked, answered, strict=True):
        assert answer["target"]
        assert {**question, "target": answer["target"]} == answer


def run(*arguments: object) -> None:
    subprocess.run([sys.executable, *map(str, arguments)], cwd=ROOT, check=True)


def rows(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text("utf-8").split("\n") if line]
