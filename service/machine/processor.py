"""The processor's instruction sets, by the kernel's names."""

from pathlib import Path

from service.machine.cgroups import ROOT, read


def instructions(root: Path = ROOT) -> frozenset[str]:
    """Such as avx2, avx512_bf16, amx_tile, or Arm's bf16; none where the kernel does not tell."""
    lines = read(root / "proc/cpuinfo").splitlines()
    names = (line.partition(":") for line in lines)
    found = (v.split() for k, _, v in names if k.strip() in ("flags", "Features"))
    return frozenset(next(found, ()))
