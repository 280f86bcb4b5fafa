import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.machine import cores

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


@pytest.mark.parametrize(
    ("physical", "quota", "threads"),
    [
        (1, math.inf, 1), (2, math.inf, 1), (64, math.inf, 63), (64, 2, 1), (64, 0.5, 1),
        (64, 4, 3), (64, 3.9, 2), (4, 64, 3),
    ],
)  # fmt: skip
def test_threads_follow_cores_and_quota(physical: int, quota: float, threads: int) -> None:
    assert cores.engine_threads(physical, quota) == threads


def test_a_quota_below_the_cores_is_not_left_to_vllm_on_many_nodes(
    one_node: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else vLLM would bind a thread to every core of a node, whatever the quota."""
    one_node.write_text("0-1\n")
    monkeypatch.setattr(cores, "cpu_quota", lambda: 0.5)
    cores.compute_in_engine_process()
    assert os.environ["OMP_NUM_THREADS"] == "1"
    assert os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"


def test_a_bound_thread_is_freed_once_its_core_is_crowded(
    one_node: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two busy processes on one core: the one that is ours gets all cores back."""
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("binding needs two CPUs")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(cores, "LOOK_EVERY_S", 0.2)
    cores.compute_in_engine_process()
    busy = [sys.executable, "-c", "while True: pass"]
    with subprocess.Popen(busy) as ours:
        try:
            bound = affinity_after_bind(ours)
            assert len(bound) == 1
            with subprocess.Popen(["taskset", "-c", str(*bound), *busy]) as other:
                try:
                    deadline = time.monotonic() + 60
                    while os.sched_getaffinity(ours.pid) != os.sched_getaffinity(0):
                        assert time.monotonic() < deadline
                        time.sleep(0.05)
                finally:
                    other.kill()
        finally:
            ours.kill()
