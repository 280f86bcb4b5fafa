import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from service import cores

NAMES = ("VLLM_CPU_OMP_THREADS_BIND", "VLLM_ENABLE_V1_MULTIPROCESSING", "OMP_NUM_THREADS")


@pytest.fixture
def one_node(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    nodes = tmp_path / "possible"
    nodes.write_text("0\n")
    monkeypatch.setattr(cores, "_NODES", nodes)
    for name in NAMES:
        monkeypatch.setenv(name, "")  # so that it is as before in the end
        monkeypatch.delenv(name)
    return nodes


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


def test_the_model_computes_in_the_engines_process_and_leaves_a_core(one_node: Path) -> None:
    cores.compute_in_engine_process()
    assert os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
    assert 1 <= int(os.environ["OMP_NUM_THREADS"]) <= max(1, (os.cpu_count() or 1) - 1)


def test_a_number_of_threads_that_is_set_stays(
    one_node: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    cores.compute_in_engine_process()
    assert os.environ["OMP_NUM_THREADS"] == "7"


def test_binding_is_left_to_vllm_on_many_nodes(one_node: Path) -> None:
    one_node.write_text("0-1\n")
    cores.compute_in_engine_process()
    assert not any(name in os.environ for name in NAMES)


def test_binding_that_is_asked_for_is_left_to_vllm(
    one_node: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "0-3")
    cores.compute_in_engine_process()
    assert "VLLM_ENABLE_V1_MULTIPROCESSING" not in os.environ


def affinity_after_bind(process: subprocess.Popen[bytes]) -> set[int]:
    cores.bind(process.pid)
    return os.sched_getaffinity(process.pid)


def test_one_computing_thread_stays_on_one_core(
    one_node: Path, monkeypatch: pytest.MonkeyPatch, sleeper: subprocess.Popen[bytes]
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    cores.compute_in_engine_process()
    assert len(affinity_after_bind(sleeper)) == 1


@pytest.mark.parametrize(
    ("name", "value"), [("OMP_NUM_THREADS", "2"), ("VLLM_CPU_OMP_THREADS_BIND", "nobind")]
)
def test_more_threads_and_those_that_vllm_binds_stay_free(
    one_node: Path,
    monkeypatch: pytest.MonkeyPatch,
    sleeper: subprocess.Popen[bytes],
    name: str,
    value: str,
) -> None:
    monkeypatch.setenv(name, value)
    cores.compute_in_engine_process()
    assert affinity_after_bind(sleeper) == os.sched_getaffinity(0)


def test_what_cannot_be_bound_goes_on(
    one_node: Path, monkeypatch: pytest.MonkeyPatch, sleeper: subprocess.Popen[bytes]
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    cores.compute_in_engine_process()
    sleeper.kill()
    sleeper.wait()
    cores.bind(sleeper.pid)
