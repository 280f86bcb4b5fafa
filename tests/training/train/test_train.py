"""`python -m training.train` on a tiny model: what it writes, refuses and resumes."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from training.errors import TrainingError
from training.train.__main__ import main
from training.train.config import load_config
from training.train.job import train


def test_an_adapter_is_complete_and_readable(
    recipe: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["--config", str(recipe)]) == 0
    adapter = tmp_path / "adapter"
    names = {path.name for path in adapter.iterdir()}
    assert {
        "adapter_config.json", "adapter_model.safetensors", "tokenizer.json",
        "tokenizer_config.json", "chat_template.jinja", "training.yaml",
    } <= names  # fmt: skip
    assert all(path.stat().st_mode & 0o444 == 0o444 for path in adapter.iterdir())
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert sorted({name.rpartition(".")[2] for name in config["target_modules"]}) == [
        "down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"
    ]  # fmt: skip
    printed = capfd.readouterr().out
    assert "trainable parameters: 3,712 of a 280,480 backbone (1.32 %)" in printed
    assert "evaluation loss:" in printed
    checkpoints = sorted(path.name for path in (tmp_path / "adapter.run").glob("checkpoint-*"))
    assert checkpoints == ["checkpoint-4", "checkpoint-6"]
    assert (tmp_path / "adapter.run" / "checkpoint-6" / "adapter_config.json").is_file()


def test_two_runs_are_never_mixed(recipe: Path, tmp_path: Path) -> None:
    config = load_config(recipe, [])
    with pytest.raises(TrainingError, match="nothing to resume"):
        train(config, resume=True)
    train(config)
    with pytest.raises(TrainingError, match="exists already"):
        train(config)
    shutil.rmtree(tmp_path / "adapter")
    with pytest.raises(TrainingError, match="--resume"):
        train(config)
    (tmp_path / "adapter.run" / "training.yaml").rename(tmp_path / "kept.yaml")
    with pytest.raises(TrainingError, match="--resume"):
        train(config)
    (tmp_path / "kept.yaml").rename(tmp_path / "adapter.run" / "training.yaml")
    with pytest.raises(TrainingError, match=r"lora\.r changed"):
        train(load_config(recipe, ["lora.r=8"]), resume=True)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model=/no/such/model", "no config.json"),
        ("data.train=/no/such/file.json", "/no/such/file.json"),
        ("data.prompt=question", "no column 'question'"),
        ("template=nonsense", "known: .*llama"),
        ("lora.targets=[nothing_proj]", "lora.targets"),
        ("precision=fp16", "needs a GPU"),
    ],
)
def test_bad_settings_leave_no_run_behind(
    recipe: Path, tmp_path: Path, override: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--config", str(recipe), override]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "adapter").exists()
    assert main(["--config", str(recipe), "optim.steps=1"]) == 0


def test_help_teaches_without_loading_torch() -> None:
    code = (
        "import sys; from training.train.__main__ import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: print('torch' in sys.modules)"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert "--resume" in shown
    assert "examples:" in shown
    assert shown.strip().endswith("False")


def test_rows_that_reach_beyond_the_embeddings_are_named(
    recipe: Path, base_model: Path, tmp_path: Path
) -> None:
    """As Gemma 3's token for images does in its text-only models."""
    base = Path(shutil.copytree(base_model, tmp_path / "base"))
    path = base / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    token = {"id": 4140, "content": "<image>", "single_word": False, "lstrip": False}
    token |= {"rstrip": False, "normalized": False, "special": True}
    tokenizer["added_tokens"].append(token)
    path.write_text(json.dumps(tokenizer))
    train(load_config(recipe, [f"model={base}"]))
    rows = (tmp_path / "train.json").read_text().splitlines()
    rows[3] = json.dumps({"input": "what is <image>?", "target": "b"})
    (tmp_path / "train.json").write_text("\n".join(rows))
    with pytest.raises(TrainingError, match=r"train.json:4: .*(id 4140|control token)"):
        train(load_config(recipe, [f"model={base}", f"output={tmp_path}/other"]))
