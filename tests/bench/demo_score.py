"""Score the demo's base model and the fine-tuned, merged one on the demo's dev set.

    python -m tests.bench.demo_score

Both are served one after the other by `python -m service` and asked by the client, then
client/score.py prints both scores side by side.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.paths import DEMO, ROOT
from tests.server import serving


def predict(url: str, output: Path) -> Path:
    """Answer the demo's dev set from the server at `url`."""
    _client(
        "predict_testset.py", "--url", url, "--input", DEMO / "data" / "dev.json",
        "--output", output, "--parameters", '{"max_tokens": 128}',
    )  # fmt: skip
    return output


def compare(base: Path, tuned: Path) -> dict[str, Any]:
    """Print both scores; return them as client/score.py's JSON."""
    scores = tuned.with_name("scores.json")
    _client(
        "score.py", "--gold", DEMO / "data" / "dev.json", "--predictions", base,
        "--compare", tuned, "--json", scores,
    )  # fmt: skip
    result: dict[str, Any] = json.loads(scores.read_text("utf-8"))
    return result


def _client(script: str, *arguments: object) -> None:
    command = [sys.executable, str(ROOT / "client" / script), *map(str, arguments)]
    subprocess.run(command, check=True)


def main() -> None:
    """Serve, ask and score both models."""
    with tempfile.TemporaryDirectory() as folder:
        predictions = []
        for name in ("base", "model"):
            log = Path(folder) / f"{name}.log"
            print(f"serving {DEMO / name}", flush=True)
            with serving(DEMO / name, log) as server:
                predictions.append(predict(server.url, Path(folder) / f"{name}.json"))
        print(f"P: {DEMO / 'base'}, P2: {DEMO / 'model'}")
        compare(*predictions)


if __name__ == "__main__":
    main()
