"""A small model of every kind that is calibrated, and rows to calibrate it on."""

import json
from pathlib import Path
from typing import Any

from tests.chatglm import converted_base
from tests.families import write_family
from tests.training.convert.chatglm2_release import write_release
from training.convert.chatglm.conversion import convert_chatglm
from training.gptq.job import Calibration, Report, calibrate

FAMILIES = ("llama3", "llama3-tied", "mistral", "qwen2", "qwen3", "glm4")
KINDS = (*FAMILIES, "glm", "chatglm_6b")
GROUP = 32
TEXTS = (
    "感冒了怎么办？多喝水。",
    "the capital of France is Paris",
    "发烧三天，咳嗽。",
    "1 + 1 = 2",
)


def write_kind(kind: str, folder: Path) -> Path:
    """A random model directory; ChatGLM-6B's is the golden one."""
    if kind == "chatglm_6b":
        return converted_base(folder)
    if kind == "glm":
        convert_chatglm(write_release(folder.with_name("release"), "chatglm3"), folder)
        return folder
    return write_family(kind, folder)


def write_rows(path: Path, count: int = 24, **columns: str) -> Path:
    """Write rows that differ; `columns` are other names for input and target."""
    prompt, answer = columns.get("prompt", "input"), columns.get("response", "target")
    rows = [
        {prompt: TEXTS[i % 4] * (1 + i % 5) + str(i), answer: TEXTS[-1 - i % 3]}
        for i in range(count)
    ]
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
    return path


def calibrated(model: Path, output: Path, **settings: Any) -> Report:
    """Quantise `model` to `output` on such rows."""
    data = write_rows(output.with_name("rows.json"))
    return calibrate(model, output, Calibration(data, **settings), GROUP)
