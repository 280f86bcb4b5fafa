"""The whole way on real weights: SmolLM2-135M-Instruct from GGUF, trained, merged, served."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.paths import ROOT
from tests.reference import adapted, greedy_ids
from tests.server import ServerProcess, serving

SMOLLM2 = ROOT / "build" / "smollm2" / "model"
TOKENS = 32
PROMPTS = [
    "What is the capital of France?",
    "Who wrote Romeo and Juliet?",
    "Name the four seasons of the year.",
    "What do bees make?",
    "Translate 'good morning' into Spanish.",
    "What is two plus three?",
    "Write one sentence about the sea.",
    "Which animal is known as man's best friend?",
    "Give me a short recipe for pancakes.",
    "Why is the sky blue?",
]
ROWS = [
    ("What is the capital of Italy?", "The capital of Italy is Rome."),
    ("What colour is grass?", "Grass is green."),
    ("How many legs has a spider?", "A spider has eight legs."),
    ("What do cows drink?", "Cows drink water."),
    ("Which planet is closest to the sun?", "Mercury is closest to the sun."),
    ("What is frozen water called?", "Frozen water is called ice."),
    ("How many days has a week?", "A week has seven days."),
    ("What is the opposite of hot?", "The opposite of hot is cold."),
]
RECIPE = """
model: {model}
output: {output}
data: {{train: {data}, max_length: 128}}
lora: {{r: 8, alpha: 16, dropout: 0.0}}
optim: {{lr: 2.0e-4, schedule: constant, steps: 4, batch_size: 4}}
log_every: 1
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds the trained adapter and the merged model, both made through the command lines."""
    if not (SMOLLM2 / "config.json").is_file():
        pytest.fail(f"{SMOLLM2} is not built: run `make smollm2`")
    folder = tmp_path_factory.mktemp("smollm2")
    rows = [{"input": question, "target": answer} for question, answer in ROWS]
    (folder / "train.json").write_text("\n".join(map(json.dumps, rows)))
    recipe = RECIPE.format(model=SMOLLM2, output=folder / "adapter", data=folder / "train.json")
    (folder / "recipe.yaml").write_text(recipe)
    _run("training.train", "--config", folder / "recipe.yaml")
    # in float32, since rounding to the base's float16 would be a difference of its own
    source = ["--base", str(SMOLLM2), "--adapter", str(folder / "adapter")]
    _run("training.merge", *source, "--output", folder / "model", "--dtype", "float32")
    return folder


@pytest.fixture(scope="module")
def real_server(folder: Path) -> Iterator[ServerProcess]:
    with serving(folder / "model", folder / "server.log", max_model_len=512) as ready:
        yield ready


def _run(module: str, *arguments: Path | str) -> None:
    command = [sys.executable, "-m", module, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def test_greedy_answers_equal_transformers_with_the_unmerged_adapter(
    real_server: ServerProcess, folder: Path
) -> None:
    served = real_server.generate(PROMPTS, max_tokens=TOKENS, logprobs=0)["results"]
    model, tokenizer = adapted(SMOLLM2, folder / "adapter")
    for prompt, one in zip(PROMPTS, served, strict=True):
        expected = greedy_ids(model, tokenizer, prompt, TOKENS, ignore_eos=False)
        assert [position["token_id"] for position in one["logprobs"]] == expected, prompt
        assert one["generated_text"] == tokenizer.decode(expected, skip_special_tokens=True)


def test_the_model_still_knows_what_it_knew(real_server: ServerProcess) -> None:
    asked = real_server.generate("What is the capital of France?", max_tokens=TOKENS)
    assert "Paris" in asked["generated_text"]
    # without the chat template it goes on with the text
    continued = real_server.generate("The capital of France is", max_tokens=4, raw=True)
    assert continued["generated_text"].startswith(" Paris")
