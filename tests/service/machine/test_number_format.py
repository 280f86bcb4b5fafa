import json
from pathlib import Path
from typing import Any

import pytest

from service.machine.number_format import on_cpu, parameters
from tests.models import tiny_llama, to_bin, weights
from tests.processors import AVX2, BF16, ROOMY_KIB, WITH_BF16, WITHOUT_BF16, machine


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


def test_a_quantised_model_keeps_its_own(tmp_path: Path) -> None:
    config = {"quantization_config": {"quant_method": "compressed-tensors"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    for name, cpuinfo in {"slow": AVX2, "fast": BF16}.items():
        assert on_cpu(tmp_path, 2, machine(tmp_path / name, cpuinfo)).dtype == "auto"


def test_parameters_are_counted_however_they_are_stored(tmp_path: Path) -> None:
    whole = tiny_llama(tmp_path / "whole", hidden_size=256, intermediate_size=512)
    shards: dict[str, Any] = {
        "max_shard_size": "500KB",
        "hidden_size": 256,
        "intermediate_size": 512,
    }
    count = parameters(whole)
    assert count == sum(tensor.numel() for tensor in weights(whole).values())
    assert parameters(tiny_llama(tmp_path / "shards", **shards)) == count
    halves = to_bin(tiny_llama(tmp_path / "bin", dtype="float16", **shards))
    assert parameters(halves) == pytest.approx(count, rel=0.05)  # files hold names, too
    (whole / "model.safetensors").write_bytes(b"no safetensors")
    assert parameters(whole) == 0
