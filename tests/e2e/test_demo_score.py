"""Fine-tuning is worth it: the served merged model against its base, by exact match."""

from pathlib import Path

from tests.bench.demo_score import compare, predict
from tests.server import ServerProcess, serving


def test_the_fine_tuned_model_beats_its_base_by_a_wide_margin(
    server: ServerProcess, demo: Path, logs: Path, tmp_path: Path
) -> None:
    tuned = predict(server.url, tmp_path / "tuned.json")
    with serving(demo / "base", logs / "base.log") as base_server:
        base = predict(base_server.url, tmp_path / "base.json")
    scores = compare(base, tuned)
    assert scores["compare"]["label_tasks"] >= scores["label_tasks"] + 0.5
    assert scores["compare"]["overall"] >= scores["overall"] + 0.3
