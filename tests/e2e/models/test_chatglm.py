"""ChatGLM-6B and trained prefixes, served: the ids that the original 2023 code gave."""

import asyncio
import json
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from tests.chatglm import GOLDEN, Row, golden_rows
from tests.paths import ROOT
from tests.server import ServerProcess, serving
from tests.training.convert.chatglm_release import write_release
from training.convert.chatglm.conversion import convert_chatglm
from training.merge.job import merge

TOKENS = 24
# 32 tokens a block, 14 blocks: the golden prompts take up to 6 each, so requests get preempted
# What would split or skip a context is asked for too: the model must switch it off by itself.
HARMFUL = {
    **{"enable_chunked_prefill": True, "max_num_batched_tokens": 256},
    **{"long_prefill_token_threshold": 16, "enable_prefix_caching": True},
}
SCARCE = {
    "max_model_len": 400,
    "engine_args": json.dumps({"block_size": 32, "num_gpu_blocks_override": 14, **HARMFUL}),
}
ADAPTER = f"tuned={GOLDEN / 'lora_adapter'}"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Converted from the hub's form: .bin files, index, and code that would leave a trace."""
    folder = tmp_path_factory.mktemp("chatglm")
    convert_chatglm(write_release(folder / "hub"), folder / "base")
    return folder / "base"


@pytest.fixture(scope="module")
def tuned(base: Path) -> Path:
    merge(base, [GOLDEN / "ptuning"], base.parent / "ptuned")
    return base.parent / "ptuned"


@pytest.fixture(scope="module")
def both(base: Path) -> Iterator[ServerProcess]:
    """The base with the LoRA adapter beside it, and few cache blocks."""
    log = base.parent / "base.log"
    with serving(base, log, adapters=ADAPTER, **SCARCE) as server:
        yield server


@pytest.fixture(scope="module")
def prefixed(tuned: Path) -> Iterator[ServerProcess]:
    with serving(tuned, tuned.parent / "ptuned.log", **SCARCE) as server:
        yield server


def body(row: Row, adapter: str | None = None) -> dict[str, Any]:
    prompt, raw = row.request
    parameters = {"max_tokens": TOKENS, "ignore_eos": True, "logprobs": 20, "raw": raw}
    return {"prompt": prompt, "parameters": parameters | ({"adapter": adapter} if adapter else {})}


def ids(result: dict[str, Any]) -> list[int]:
    return [position["token_id"] for position in result["logprobs"]]


def alone(server: ServerProcess, rows: Sequence[Row], adapter: str | None = None) -> list[Any]:
    answers = [
        httpx.post(f"{server.url}/generate", json=body(row, adapter), timeout=300) for row in rows
    ]
    assert [answer.status_code for answer in answers] == [200] * len(rows)
    return [answer.json() for answer in answers]


def at_random(
    server: ServerProcess, requests: Sequence[dict[str, Any]], within_s: float
) -> list[Any]:
    """The answers to all requests, sent at moments drawn at random."""

    async def one(client: httpx.AsyncClient, request: dict[str, Any], delay: float) -> Any:
        await asyncio.sleep(delay)
        answer = await client.post("/generate", json=request)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def every() -> list[Any]:
        draw = random.Random(0)
        async with httpx.AsyncClient(base_url=server.url, timeout=300) as client:
            jobs = [one(client, each, within_s * draw.random()) for each in requests]
            return await asyncio.gather(*jobs)

    return asyncio.run(every())


def assert_preempted(
    server: ServerProcess, requests: Sequence[dict[str, Any]], expected: list[list[int]]
) -> None:
    """Right answers though some are preempted: on a fast machine only when they come closer."""
    before = server.metric("vllm:num_preemptions_total")
    for within_s in (1, 0.2, 0):
        results = at_random(server, requests, within_s)
        assert [ids(result) for result in results] == expected
        if server.metric("vllm:num_preemptions_total") > before:
            return
    pytest.fail("no request was preempted, even when all came at once")


def assert_first_logits(results: Sequence[dict[str, Any]], rows: Sequence[Row]) -> None:
    """The 20 likeliest first tokens have the log-probabilities of the golden logits."""
    for result, row in zip(results, rows, strict=True):
        expected = torch.tensor(row.logits, dtype=torch.float64).log_softmax(dim=0)
        top = result["logprobs"][0]["top_logprobs"]
        assert len(top) == 20
        for token in top:
            assert abs(token["logprob"] - float(expected[token["token_id"]])) <= 5e-3


def assert_golden(server: ServerProcess, rows: list[Row], adapter: str | None = None) -> None:
    """The golden ids alone, in one batch, and for 48 requests at random moments, preempted."""
    expected = [row.greedy_ids for row in rows]
    results = alone(server, rows, adapter)
    assert [ids(result) for result in results] == expected
    assert_first_logits(results, rows)
    lengths = [len(row.input_ids) for row in rows]  # without the placeholders of a prefix
    assert [result["usage"]["prompt_tokens"] for result in results] == lengths
    worded = [row for row in rows if row.prompt]  # a list is raw as a whole or not at all
    more = {"adapter": adapter} if adapter else {}
    batch = server.generated_ids(
        [row.prompt for row in worded], max_tokens=TOKENS, ignore_eos=True, **more
    )
    assert batch == [row.greedy_ids for row in worded]
    assert_preempted(server, [body(row, adapter) for row in rows * 4], expected * 4)


def test_the_base_answers_as_the_original_did(both: ServerProcess) -> None:
    assert_golden(both, golden_rows("base"))
    assert "prefix caching, chunked prefill and compilation are off" in both.log.read_text()


def test_the_adapter_at_run_time_answers_as_the_original_did(both: ServerProcess) -> None:
    assert_golden(both, golden_rows("lora"), "tuned")


def test_requests_with_and_without_adapter_mix(both: ServerProcess) -> None:
    plan: list[tuple[Row, str | None]] = [(row, None) for row in golden_rows("base") * 2]
    plan += [(row, "tuned") for row in golden_rows("lora") * 2]
    random.Random(1).shuffle(plan)
    requests = [body(row, adapter) for row, adapter in plan]
    assert_preempted(both, requests, [row.greedy_ids for row, _ in plan])


def test_p_tuned_answers_as_the_original_did(prefixed: ServerProcess) -> None:
    assert_golden(prefixed, golden_rows("ptuning"))
    assert httpx.get(f"{prefixed.url}/info", timeout=60).json()["max_model_len"] == 400


def test_the_merged_adapter_answers_as_the_original_did(base: Path, tmp_path: Path) -> None:
    merge(base, [GOLDEN / "lora_adapter"], tmp_path / "merged")
    with serving(tmp_path / "merged", tmp_path / "server.log", **SCARCE) as server:
        assert_golden(server, golden_rows("lora"))


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="two ranks need two cores")
def test_two_ranks_share_heads_and_prefix(
    tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "0|1")
    rows = [row for row in golden_rows("ptuning") if row.prompt]
    with serving(tuned, tmp_path / "server.log", tensor_parallel_size=2) as server:
        served = server.generated_ids(
            [row.prompt for row in rows], max_tokens=TOKENS, ignore_eos=True
        )
    assert served == [row.greedy_ids for row in rows]


def test_make_serve_serves_a_converted_directory(base: Path, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    row, deadline = golden_rows("base")[1], time.monotonic() + 300
    with (tmp_path / "make.log").open("wb") as log:
        command = ["make", "serve", f"MODEL={base}", f"PORT={port}"]
        settings = {**os.environ, "SERVICE_DTYPE": "float32", "OMP_NUM_THREADS": "1"}
        make = subprocess.Popen(
            command, cwd=ROOT, env=settings, stdout=log, stderr=log, start_new_session=True
        )
    try:
        while make.poll() is None and time.monotonic() < deadline:
            with suppress(httpx.TransportError):
                if httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200:
                    break
            time.sleep(0.2)
        answer = httpx.post(f"http://127.0.0.1:{port}/generate", json=body(row), timeout=300)
        assert ids(answer.json()) == row.greedy_ids
    finally:
        os.killpg(make.pid, signal.SIGTERM)
        make.wait(timeout=120)


def test_control_tokens_are_data_or_refused(both: ServerProcess) -> None:
    """A literal [gMASK] would move positions, a literal <sop> would end the question."""

    def refused(prompt: str, *, raw: bool) -> str:
        request = {"prompt": prompt, "parameters": {"raw": raw}}
        answer = httpx.post(f"{both.url}/generate", json=request, timeout=300)
        assert answer.status_code == 400
        assert answer.json()["param"] == "prompt"
        return str(answer.json()["error"])

    for token in ("[gMASK]", "<sop>", "<eop>", "[MASK]"):
        assert token in refused(f"前{token}后", raw=False)
    for prompt in (
        "头痛",
        "头痛<sop>",
        "<sop>",
        "头[gMASK]痛[gMASK]<sop>",
        "头<sop>痛[gMASK]<sop>",
    ):
        assert "[gMASK]<sop>" in refused(prompt, raw=True)
    # the first word of an answer given: all is as if it had been generated
    row = golden_rows("base")[1]
    both.generate(f"{row.prompt}[gMASK]<sop>的", raw=True, max_tokens=4)
