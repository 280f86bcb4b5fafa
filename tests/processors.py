"""What /proc/cpuinfo says on processors with bf16 instructions and without."""

from pathlib import Path

AVX2 = "flags\t\t: fpu sse2 avx avx2 fma f16c\n"
SKYLAKE = "flags\t\t: fpu sse2 avx2 avx512f avx512bw avx512vl\n"
AVX512 = "flags\t\t: fpu sse2 avx2 avx512f avx512bw avx512vl avx512_vnni\n"
BF16 = "flags\t\t: fpu sse2 avx2 avx512f avx512bw avx512vl avx512_vnni avx512_bf16\n"
AMX = "flags\t\t: fpu sse2 avx2 avx512f avx512_bf16 amx_bf16 amx_tile\n"
AMX_FP8 = AMX.replace("amx_tile", "amx_tile amx_fp8")
ARM = "Features\t: fp asimd sve bf16 i8mm\n"
OLD_ARM = "Features\t: fp asimd\n"
WITHOUT_BF16 = [AVX2, AVX512, OLD_ARM, ""]
WITH_BF16 = [BF16, AMX, ARM]
ROOMY_KIB = 16 * 2**20


def machine(root: Path, cpuinfo: str, memory_kib: int = ROOMY_KIB) -> Path:
    """A `root` whose proc/ tells of that processor and memory."""
    (root / "proc").mkdir(parents=True)
    (root / "proc/cpuinfo").write_text(f"processor\t: 0\n{cpuinfo}\nprocessor\t: 1\n{cpuinfo}")
    (root / "proc/meminfo").write_text(
        f"MemTotal: {memory_kib} kB\nMemAvailable: {memory_kib} kB\n"
    )
    return root
