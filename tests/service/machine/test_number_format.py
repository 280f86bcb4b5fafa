from pathlib import Path
from typing import Any

import pytest
import torch

from service.machine.number_format import float32_size, on_cpu
from tests.models import edit_json, edit_weights, tiny_llama, to_bin, weights, write_config
from tests.processors import AVX2, BF16, ROOMY_KIB, WITH_BF16, WITHOUT_BF16, machine
from tests.quantised import FP8, INT4, INT8


@pytest.mark.parametrize("stored", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize(
    ("cpuinfo", "dtype"),
    [
        *((slow, "float32") for slow in WITHOUT_BF16),
        *((fast, "bfloat16") for fast in WITH_BF16),
    ],
)
def test_the_processor_decides(tmp_path: Path, cpuinfo: str, dtype: str, stored: str) -> None:
    model = tiny_llama(tmp_path / "model", dtype=stored)
    chosen = on_cpu(model, 2, machine(tmp_path / "root", cpuinfo))
    assert (chosen.dtype, chosen.is_slow) == (dtype, False)
    assert "bf16 instructions" in chosen.reason


@pytest.mark.parametrize("limited_by", ["memory", "control group"])
def test_what_has_no_room_in_float32_is_told_with_the_numbers(
    tmp_path: Path, limited_by: str
) -> None:
    room = 5 * 2**30
    root = machine(tmp_path / "root", AVX2, room // 1024 if limited_by == "memory" else ROOMY_KIB)
    if limited_by == "control group":
        (root / "proc/self").mkdir()
        (root / "proc/self/cgroup").write_text("0::/\n")
        (root / "sys/fs/cgroup").mkdir(parents=True)
        (root / "sys/fs/cgroup/memory.max").write_text(str(room))
    model = tiny_llama(tmp_path / "model", dtype="float16")
    assert on_cpu(model, 2, root).dtype == "float32"
    chosen = on_cpu(model, 4, root)
    assert (chosen.dtype, chosen.is_slow) == ("auto", True)
    assert "6.4 GB with the cache, of 5.4 GB" in chosen.reason


@pytest.mark.parametrize("settings", [FP8, *INT4.values()])
def test_weights_of_other_formats_are_computed_in_16_bits(tmp_path: Path, settings: Any) -> None:
    model = write_config(tmp_path / "model", quantization_config=settings)
    for name, cpuinfo in {"slow": AVX2, "fast": BF16}.items():
        assert on_cpu(model, 2, machine(tmp_path / name, cpuinfo)).dtype == "bfloat16"


@pytest.mark.parametrize(
    ("cpuinfo", "dtype"),
    [*((slow, "float32") for slow in WITHOUT_BF16), *((fast, "bfloat16") for fast in WITH_BF16)],
)
def test_the_processor_decides_about_an_int8_model_too(
    tmp_path: Path, cpuinfo: str, dtype: str
) -> None:
    model = tiny_llama(tmp_path / "model", dtype="bfloat16")
    edit_json(model / "config.json", quantization_config=INT8)
    assert on_cpu(model, 2, machine(tmp_path / "root", cpuinfo)).dtype == dtype


def test_int8_weights_take_a_byte_each_in_memory(tmp_path: Path) -> None:
    model = tiny_llama(tmp_path / "model")
    plain = float32_size(model)
    name = "model.layers.0.mlp.up_proj.weight"
    codes = {name: torch.ones(48, 32, dtype=torch.int8)}
    edit_weights(model / "model.safetensors", lambda tensors: tensors.update(codes))
    assert plain - float32_size(model) == 3 * 48 * 32


def test_weights_are_counted_however_they_are_stored(tmp_path: Path) -> None:
    whole = tiny_llama(tmp_path / "whole", hidden_size=256, intermediate_size=512)
    shards: dict[str, Any] = {
        "max_shard_size": "500KB",
        "hidden_size": 256,
        "intermediate_size": 512,
    }
    count = float32_size(whole)
    assert count == 4 * sum(tensor.numel() for tensor in weights(whole).values())
    assert float32_size(tiny_llama(tmp_path / "shards", **shards)) == count
    halves = to_bin(tiny_llama(tmp_path / "bin", dtype="float16", **shards))
    assert float32_size(halves) == pytest.approx(count, rel=0.05)  # files hold names, too
    (whole / "model.safetensors").write_bytes(b"no safetensors")
    assert float32_size(whole) == 0
