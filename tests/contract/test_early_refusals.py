"""What is wrong with a path is told before torch or transformers is loaded, which takes seconds."""

import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import runpy, sys
sys.argv = {argv}
try:
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
except SystemExit as ended:
    print(ended.code, *sorted({{"torch", "transformers", "vllm"}} & sys.modules.keys()))
"""
RECIPE = "training/recipes/llama_lora.yaml"
CONVERT = ("training.convert", "--input", "nowhere", "--output", "out")


@pytest.mark.parametrize(
    "argv",
    [
        ("service", "--model", "nowhere"),
        ("service.integrity", "nowhere"),
        ("training.train", "--config", "nowhere"),
        ("training.train", "--config", RECIPE, "model=nowhere", "output=out", "data.train=no"),
        ("training.merge", "--base", "nowhere", "--adapter", "nowhere", "--output", "out"),
        ("training.quantize", "--model", "nowhere", "--output", "out", "--scheme", "int8"),
        ("training.gptq", "--model", "nowhere", "--output", "out", "--data", "nowhere"),
        (
            "training.gptq",
            "--model",
            "build/demo/base",
            "--output",
            "out",
            "--data",
            "nowhere",
            "--group-size",
            "64",
        ),
        *((CONVERT[0], kind, *CONVERT[1:]) for kind in ("hf", "chatglm", "gguf")),
        ("training.prompts", "--input", "nowhere", "--templates", "nowhere", "--output", "out"),
        (CONVERT[0], "llama", *CONVERT[1:], "--tokenizer", "nowhere"),
    ],
    ids=" ".join,
)
def test_a_wrong_path_is_refused_before_anything_heavy_is_loaded(
    argv: tuple[str, ...], tmp_path: Path
) -> None:
    argv = tuple(str(tmp_path / word) if word in ("nowhere", "out") else word for word in argv)
    run = subprocess.run(
        [sys.executable, "-c", CODE.format(argv=list(argv))],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "error: " in run.stderr
    assert run.stdout.split("\n")[-2] in ("1", "2"), run.stdout
