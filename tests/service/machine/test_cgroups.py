"""Control groups as the kernel shows them, in files made here; a real one in .ci/containers."""

import math
from pathlib import Path

import pytest

from service.machine.cgroups import cpu_quota, memory_limit
from training.threads import usable_threads

V1 = "4:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n1:name=systemd:/docker/abc\n"
V2 = "0::/user.slice/run-1.scope\n"
QUOTAS = [
    pytest.param("0::/\n", {"cpu.max": "50000 100000"}, 0.5, id="v2, in a container"),
    pytest.param("0::/\n", {"cpu.max": "max 100000"}, math.inf, id="v2, no quota"),
    pytest.param(V2, {"user.slice/run-1.scope/cpu.max": "200000 100000"}, 2, id="v2, a scope"),
    pytest.param(
        V2,
        {"user.slice/cpu.max": "150000 100000", "user.slice/run-1.scope/cpu.max": "max 100000"},
        1.5,
        id="v2, of a group above",
    ),
    pytest.param(
        V1,
        {"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000"},
        4,
        id="v1, whose own group is the container's root",
    ),
    pytest.param(
        V1,
        {
            "cpu/docker/abc/cpu.cfs_quota_us": "-1",
            "cpu/docker/abc/cpu.cfs_period_us": "100000",
        },
        math.inf,
        id="v1, no quota",
    ),
    pytest.param("", {}, math.inf, id="no control groups"),
]


def system(root: Path, groups: str, files: dict[str, str]) -> Path:
    for name, text in {"proc/self/cgroup": groups}.items() | {
        (f"sys/fs/cgroup/{name}", text) for name, text in files.items()
    }:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(("groups", "files", "quota"), QUOTAS)
def test_a_quota_is_found(tmp_path: Path, groups: str, files: dict[str, str], quota: float) -> None:
    root = system(tmp_path, groups, files)
    assert cpu_quota(root) == quota
    assert usable_threads(1, root) == 1
    assert usable_threads(10**6, root) <= max(1, quota)


@pytest.mark.parametrize(
    ("groups", "file"), [("0::/\n", "memory.max"), (V1, "memory/memory.limit_in_bytes")]
)
def test_a_limit_of_memory_is_found(tmp_path: Path, groups: str, file: str) -> None:
    assert memory_limit(system(tmp_path, groups, {file: "1073741824"})) == 2**30
    assert memory_limit(system(tmp_path, groups, {file: "max"})) == math.inf
