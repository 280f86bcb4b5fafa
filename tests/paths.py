"""Where things lie; importable without pytest, which the benchmarks do not need."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
DEMO = ROOT / "build" / "demo"
SMOLLM2 = ROOT / "build" / "smollm2" / "model"
SCORING = ROOT / "tests" / "golden" / "scoring"
