import shutil
from pathlib import Path

import pytest
import torch
import yaml

from tests.models import tiny_llama, to_bin
from tests.processors import AVX2, ROOMY_KIB, WITH_BF16, WITHOUT_BF16, machine
from training.train import precision
from training.train.__main__ import main
from training.train.config import load_config
from training.train.job import train
from training.train.precision import choose, on_cpu, slow


@pytest.mark.parametrize(
    ("cpuinfo", "wanted"),
    [*((flags, "fp32") for flags in WITHOUT_BF16), *((flags, "bf16") for flags in WITH_BF16)],
)
def test_the_processor_decides(tmp_path: Path, cpuinfo: str, wanted: str) -> None:
    root = machine(tmp_path / "root", cpuinfo)
    chosen, reason = on_cpu(tiny_llama(tmp_path / "model", dtype="float16"), root)
    assert chosen == wanted
    assert "bf16 instructions" in reason
    assert not slow(chosen, root)
    assert slow("bf16", root) == (wanted == "fp32")
    assert not slow("fp32", root)


@pytest.mark.parametrize("stored", ["safetensors", "bin"])
@pytest.mark.parametrize("processes", [1, 2])
def test_what_has_no_room_in_fp32_is_told_with_the_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: int, stored: str
) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    model = tiny_llama(tmp_path / "model", dtype="float16")
    if stored == "bin":
        to_bin(model)
    root = machine(tmp_path / "root", AVX2, 6 * 2**20)
    chosen, reason = on_cpu(model, root)
    assert chosen == ("fp32" if processes == 1 else "bf16")
    assert f"fp32 needs {4.3 * processes:.1f} GB of 6.4 GB" in reason


@pytest.mark.parametrize("quantization", [None, "nf4", "int8"])
def test_a_quantised_base_needs_less_for_fp32(tmp_path: Path, quantization: str | None) -> None:
    model = tiny_llama(tmp_path / "model", hidden_size=1024, intermediate_size=8192)
    root = machine(tmp_path / "root", AVX2)
    free = 4 * 2**30 + 120_000_000  # beside 222 MB of linear layers in fp32
    (root / "proc/meminfo").write_text(f"MemAvailable: {free // 1024} kB\n")
    chosen, _ = on_cpu(model, root, quantization=quantization)
    assert chosen == ("fp32" if quantization else "bf16")


@pytest.mark.parametrize(
    ("has_bf16", "parallel", "wanted"),
    [
        (True, "ddp", "bf16"),
        (True, "fsdp", "bf16"),
        (False, "ddp", "fp16"),
        (False, "fsdp", "fp32"),
    ],
)
def test_the_gpu_decides_where_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_bf16: bool, parallel: str, wanted: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bf16)
    assert choose(tmp_path, parallel)[0] == wanted
    assert not slow("bf16", machine(tmp_path / "root", AVX2))


def test_auto_is_told_recorded_and_kept_by_whoever_goes_on(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fast, old = (
        machine(recipe.parent / name, flags)
        for name, flags in (("fast", WITH_BF16[0]), ("old", AVX2))
    )
    monkeypatch.setattr(precision.on_cpu, "__defaults__", (old,))
    adapter = train(load_config(recipe, ["precision=auto"]))
    assert "precision fp32: this processor has no bf16" in capsys.readouterr().out
    assert yaml.safe_load((adapter / "training.yaml").read_text())["precision"] == "fp32"
    monkeypatch.setattr(precision.on_cpu, "__defaults__", (fast,))
    again = ["--config", str(recipe), "--resume-if-started", "precision=auto"]
    assert main(again) == 0
    assert "is trained already" in capsys.readouterr().out
    shutil.rmtree(adapter)  # as if killed before the end
    assert main(again) == 0
    assert "precision fp32" in capsys.readouterr().out
    assert yaml.safe_load((adapter / "training.yaml").read_text())["precision"] == "fp32"


@pytest.mark.parametrize("text", ["", "null", "[1]", "seed: 1", "a: [", "\x00", "precision: 5"])
@pytest.mark.parametrize("asked", ["precision=auto", "precision=fp32"])
@pytest.mark.parametrize("where", ["adapter.run", "adapter"])
def test_a_damaged_record_is_told_by_name(
    recipe: Path, where: str, asked: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    record = recipe.parent / where / "training.yaml"
    record.parent.mkdir()
    record.write_text(text)
    assert main(["--config", str(recipe), "--resume-if-started", asked]) == 2
    assert f"{record} does not hold the settings of a run" in capsys.readouterr().err


def test_bf16_by_hand_without_instructions_is_warned_of(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = machine(recipe.parent / "root", AVX2, ROOMY_KIB)
    monkeypatch.setattr(precision.slow, "__defaults__", (root,))
    train(load_config(recipe, ["precision=bf16", "optim.steps=1"]))
    assert "warning: this processor has no bf16 instructions" in capsys.readouterr().out
