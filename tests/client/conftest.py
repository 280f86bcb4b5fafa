import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from client.prediction.job import Job
from client.prediction.window import Pace
from tests.client.stub import Stub, running

FAST = Pace(batch_size=8, connections=3, model_wait=20)


def rows(count: int) -> list[dict[str, object]]:
    return [
        {
            "sample_id": f"test-{index * 7}",
            "input": f"问题\u2028 {index}：是“什么”？\n答：",
            "target": "",
            "answer_choices": None if index % 2 else ["是", "不是"],
            "task_dataset": "CHIP-CTC",
            "extra": {"nested": [index]},
        }
        for index in range(count)
    ]


def write_input(path: Path, count: int) -> Path:
    lines = [json.dumps(row, ensure_ascii=False) for row in rows(count)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def read_output(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_bytes().removesuffix(b"\n").split(b"\n")]


@pytest.fixture
def stub() -> Iterator[Stub]:
    with running(Stub()) as server:
        yield server


@pytest.fixture
def job(tmp_path: Path, stub: Stub) -> Callable[..., Job]:
    """Make a job over 40 rows against the stub."""
    path = write_input(tmp_path / "test.json", 40)

    def make(**changes: object) -> Job:
        facts: dict[str, object] = {
            "urls": (stub.url,),
            "input": path,
            "output": tmp_path / "predictions.json",
            "pace": FAST,
        }
        return Job(**(facts | changes))  # type: ignore[arg-type]

    return make
