"""Everything that the OpenAPI documents allow and forbid, thrown at a real server."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.models import tiny_adapter
from tests.server import ServerProcess, serving

CONFIG = Path(__file__).with_name("schemathesis.toml")
KEY = {"Authorization": "Bearer client"}


@pytest.fixture(scope="module")
def server(demo: Path, logs: Path) -> Iterator[ServerProcess]:
    """Generation is cheap: 4 tokens unless a case asks for more, and never more than 128."""
    settings = {
        "api_keys": "client",
        "admin_keys": "boss",
        "max_adapters": 2,
        "max_adapter_rank": 8,
        "max_model_len": 128,
        "max_num_seqs": 64,
        "default_parameters": '{"max_tokens": 4}',
    }
    with serving(demo / "model", logs / "schemathesis.log", **settings) as ready:
        yield ready


def test_no_5xx_and_nothing_that_the_document_does_not_tell(
    server: ServerProcess, demo: Path, tmp_path: Path
) -> None:
    told = httpx.get(server.url + "/openapi.json", headers=KEY, timeout=60).json()
    # the one thing that no fuzzer finds by itself: a directory with an adapter
    path = told["components"]["schemas"]["LoadAdapterRequest"]["properties"]["path"]
    path["enum"] = [str(tiny_adapter(demo / "model", tmp_path / "adapter"))]
    assert tried(server, told, tmp_path, "--max-examples", "100") >= 2000


def test_no_5xx_and_no_reset_under_v1(server: ServerProcess, tmp_path: Path) -> None:
    """The document, vLLM's own, does not tell all of its answers: 5xx alone counts."""
    told = httpx.get(server.url + "/v1/openapi.json", headers=KEY, timeout=60).json()
    model, *_ = httpx.get(server.url + "/v1/models", headers=KEY, timeout=60).json()["data"]
    for name, schema in told["components"]["schemas"].items():
        if name.endswith("Request") and "model" in schema["properties"]:
            schema["properties"]["model"] = {"enum": [model["id"]]}  # else it is all 404
    known = ("--header", f"Authorization: {KEY['Authorization']}")
    only = ("--phases", "coverage,fuzzing", "--checks", "not_a_server_error")
    assert tried(server, told, tmp_path, *known, *only, "--max-examples", "40") >= 2000


def tried(server: ServerProcess, told: Any, folder: Path, *options: str) -> int:
    """How many cases passed. Fails when any did not, or the server is not ready after."""
    document = folder / "openapi.json"
    document.write_text(json.dumps(told))
    ended = subprocess.run(
        [
            # one worker: ast.parse in several threads breaks in CPython 3.11, and data is made so
            *(sys.executable, "-m", "schemathesis.cli", "--config-file", CONFIG),
            *("run", document, "--url", server.url, "--workers", "1", "--no-color"),
            *("--generation-deterministic", "--request-timeout", "60", *options),
        ],
        capture_output=True, text=True, cwd=folder, timeout=500, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout[-20_000:] + ended.stderr
    count = re.search(r"(\d+) generated, (\d+) passed", ended.stdout)
    assert count, ended.stdout
    print(count[0])
    answer = httpx.post(server.url + "/generate", json={"prompt": "感冒"}, headers=KEY, timeout=60)
    assert answer.json()["finish_reason"]
    return int(count[2])
