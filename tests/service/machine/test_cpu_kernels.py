from pathlib import Path
from typing import Any

import pytest

from service.machine.cpu_kernels import Wanted, refuse_on_cpu
from service.model_directory.quantised import UnservableError, read_quantised
from tests.models import write_config
from tests.processors import AMX, AMX_FP8, ARM, AVX2, AVX512, BF16, SKYLAKE, machine
from tests.quantised import FP8, FP8_BLOCKS, INT4, INT8, NO_KERNEL, REDUCED_INT8

EVERYWHERE = [AVX2, SKYLAKE, AVX512, BF16, AMX, ARM]
WITHOUT_AMX = [AVX2, SKYLAKE, AVX512, BF16, ARM]


def refused(folder: Path, cpuinfo: str, settings: Any, **wanted: Any) -> str:
    """Why, or nothing."""
    root = machine(folder / "root", cpuinfo)
    model = write_config(folder / "model", quantization_config=settings)
    try:
        refuse_on_cpu(read_quantised(model), Wanted(**wanted), root)
    except UnservableError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("cpuinfo", EVERYWHERE)
def test_int8_of_7_bits_runs_everywhere(tmp_path: Path, cpuinfo: str) -> None:
    assert not refused(tmp_path, cpuinfo, REDUCED_INT8)


@pytest.mark.parametrize("cpuinfo", EVERYWHERE)
def test_int8_of_8_bits_needs_vnni(tmp_path: Path, cpuinfo: str) -> None:
    message = refused(tmp_path, cpuinfo, INT8)
    assert ("--reduce-range" in message) == (cpuinfo in (AVX2, SKYLAKE))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_amx_takes_no_other_activations(tmp_path: Path, dtype: str) -> None:
    assert "leave dtype at auto" in refused(tmp_path / "amx", AMX, INT8, dtype=dtype)
    assert not refused(tmp_path / "bf16", BF16, INT8, dtype=dtype)


@pytest.mark.parametrize("cpuinfo", WITHOUT_AMX)
def test_adapters_beside_int8_need_amx(tmp_path: Path, cpuinfo: str) -> None:
    assert "merge them" in refused(tmp_path / "one", cpuinfo, REDUCED_INT8, adapters=True)
    assert not refused(tmp_path / "other", AMX, INT8, adapters=True)


@pytest.mark.parametrize("settings", INT4.values(), ids=INT4)
def test_4_bits_need_avx512(tmp_path: Path, settings: Any) -> None:
    assert "needs AVX512" in refused(tmp_path / "old", AVX2, settings)
    for number, cpuinfo in enumerate([AVX512, BF16, AMX, ARM]):
        assert not refused(tmp_path / str(number), cpuinfo, settings)
        message = refused(tmp_path / f"{number}-float32", cpuinfo, settings, dtype="float32")
        assert "16-bit activations" in message


def test_fp8_needs_its_own_instructions(tmp_path: Path) -> None:
    for number, cpuinfo in enumerate(EVERYWHERE):
        message = refused(tmp_path / str(number), cpuinfo, FP8)
        assert "slower than int8" in message
        assert "serve it on a GPU" in message
    assert not refused(tmp_path / "new", AMX_FP8, FP8)


@pytest.mark.parametrize("cpuinfo", EVERYWHERE)
def test_fp8_in_blocks_needs_amx(tmp_path: Path, cpuinfo: str) -> None:
    assert bool(refused(tmp_path, cpuinfo, FP8_BLOCKS)) == (cpuinfo != AMX)


@pytest.mark.parametrize("settings", NO_KERNEL.values(), ids=NO_KERNEL)
@pytest.mark.parametrize("cpuinfo", [AVX2, AMX])
def test_what_has_no_kernel_is_named_with_the_remedy(
    tmp_path: Path, cpuinfo: str, settings: Any
) -> None:
    message = refused(tmp_path, cpuinfo, settings)
    assert "no kernel" in message
    assert "training.quantize --scheme int8" in message


def test_nothing_is_quantised_while_it_loads(tmp_path: Path) -> None:
    assert "quantization=fp8" in refused(tmp_path, AMX, None, quantisation="fp8")


@pytest.mark.parametrize("settings", [None, INT8])
@pytest.mark.parametrize("cache", ["int8_per_token_head", "nvfp4", "turboquant_4bit_nc"])
def test_caches_that_would_be_wrong_are_refused(tmp_path: Path, cache: str, settings: Any) -> None:
    assert f"kv_cache_dtype={cache}" in refused(tmp_path, AMX, settings, cache=cache)


@pytest.mark.parametrize("cache", ["fp8", "fp8_e4m3", "fp8_e5m2"])
def test_fp8_caches_need_avx512(tmp_path: Path, cache: str) -> None:
    assert "AVX512" in refused(tmp_path / "old", AVX2, None, cache=cache)
    assert not refused(tmp_path / "new", AVX512, None, cache=cache)


def test_plain_models_are_let_through(tmp_path: Path) -> None:
    wanted = {"dtype": "float32", "adapters": True}
    assert not refused(tmp_path, AVX2, None, **wanted)
