"""Everything that our OpenAPI document allows and forbids, thrown at a real server."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

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
    document = tmp_path / "openapi.json"
    document.write_text(json.dumps(told))
    ended = subprocess.run(
        [
            # one worker: ast.parse in several threads breaks in CPython 3.11, and data is made so
            *(sys.executable, "-m", "schemathesis.cli", "--config-file", CONFIG),
            *("run", document, "--url", server.url, "--workers", "1", "--no-color"),
            *("--max-examples", "100", "--generation-deterministic", "--request-timeout", "60"),
        ],
        capture_output=True, text=True, cwd=tmp_path, timeout=500, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    count = re.search(r"(\d+) generated, (\d+) passed", ended.stdout)
    assert count, ended.stdout
    print(count[0])
    assert int(count[2]) >= 2000
    answer = httpx.post(server.url + "/generate", json={"prompt": "感冒"}, headers=KEY, timeout=60)
    assert answer.json()["finish_reason"]
