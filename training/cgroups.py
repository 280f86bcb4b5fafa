"""CPUs and memory that the control groups of this process allow (cgroups(7), both versions).

A container with two CPUs of 64 sees all 64 everywhere else.
"""

import math
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

ROOT = Path("/")


def cpu_quota(root: Path = ROOT) -> float:
    """CPUs that this process may keep busy, such as 0.5; infinite without a quota."""
    return min(map(_quota, _groups(root, "cpu")), default=math.inf)


def available_memory(root: Path = ROOT) -> float:
    """Bytes that a new program can have without swapping; infinite where unknown."""
    words = [line.split() for line in read(root / "proc/meminfo").splitlines()]
    free = (int(line[1]) * 1024 for line in words if line[0] == "MemAvailable:")
    return min([*free, *map(_limit, _groups(root, "memory"))], default=math.inf)


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """Folders of the groups that this process is in, from its own up to the root's.

    Version 2 has one hierarchy, named by no controller; version 1 one for each controller. In a
    container the upper ones may be named and not be there.
    """
    for line in read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / (controller if controllers else "")
        group = PurePosixPath(path)
        for folder in (group, *group.parents):
            yield mount / folder.relative_to("/")


def _quota(group: Path) -> float:
    one = read(group / "cpu.max").split()
    quota, period = one or [read(group / f"cpu.cfs_{name}_us") for name in ("quota", "period")]
    return int(quota) / int(period) if quota.isdigit() else math.inf


def _limit(group: Path) -> float:
    text = read(group / "memory.max") or read(group / "memory.limit_in_bytes")
    return int(text) if text.isdigit() else math.inf


def read(path: Path) -> str:
    """What a file of /proc or /sys says; nothing when it cannot be read."""
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
