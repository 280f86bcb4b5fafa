"""The engine's process dies or hangs under running requests: clients are told, nothing is left."""

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.waiting import reaches
from tests.server import ServerProcess, serving

STALL_S = 5
GRACE_S = 60  # for a busy machine; clients would be told nothing for ever
LONG: dict[str, Any] = {"max_tokens": 3000, "ignore_eos": True}
Bodies = dict[str, dict[str, Any]]
V1 = {"model": "model", "prompt": "感冒", **LONG}
WHOLE: Bodies = {
    "one": {"prompt": "感冒", "parameters": LONG},
    "list": {"prompt": ["感冒"] * 3, "parameters": LONG},
}
# vLLM compiles code for the first logprobs that are asked for, which may take longer than STALL_S
BEAMS: Bodies = {"beams": {"prompt": "感冒", "parameters": {**LONG, "beam_width": 2}}}
STREAMS: Bodies = {
    "stream": {"prompt": "感冒", "parameters": LONG, "stream": True},
    "list stream": {"prompt": ["感冒"] * 3, "parameters": LONG, "stream": True},
}


@pytest.mark.parametrize(
    ("fault", "settings", "more"),
    [(signal.SIGKILL, {}, BEAMS), (signal.SIGSTOP, {"stall_timeout_s": STALL_S}, {})],
    ids=["the engine is killed", "the engine hangs"],
)
def test_an_engine_that_is_gone_is_told_to_every_client_and_ends_the_process(
    demo: Path, logs: Path, fault: signal.Signals, settings: dict[str, Any], more: Bodies
) -> None:
    log = logs / f"{fault.name}.log"
    whole = WHOLE | more
    with serving(demo / "model", log, cpu_kvcache_gib=1, **settings) as server:
        engine = server.descendants()
        limit_s = settings.get("stall_timeout_s", 0) + GRACE_S
        answers = asyncio.run(_break_under_load(server, whole | STREAMS, fault, limit_s))
        assert server.process.returncode == 1
    server.wait_gone(engine)
    for name in whole:
        _refused(answers[name])
    assert [event["error_type"] for event in _events(answers["stream"])[-1:]] == ["engine_died"]
    items = _events(answers["list stream"])
    assert [item["error"]["error_type"] for item in items] == ["engine_died"] * 3
    assert answers["v1"].status_code == 500
    assert "engine" in answers["v1"].json()["error"]["message"]
    assert "Engine" in _events(answers["v1 stream"])[-1]["error"]["message"]  # vLLM's own words


async def _break_under_load(
    server: ServerProcess, bodies: Bodies, fault: signal.Signals, limit_s: float
) -> dict[str, httpx.Response]:
    """Every kind of request runs, then the fault; the answers, once the process has ended."""
    async with httpx.AsyncClient(base_url=server.url, timeout=120) as http:
        asked = {name: http.post("/generate", json=body) for name, body in bodies.items()}
        asked["v1"] = http.post("/v1/completions", json=V1)
        asked["v1 stream"] = http.post("/v1/completions", json={**V1, "stream": True})
        tasks = {name: asyncio.create_task(post) for name, post in asked.items()}
        await reaches(server, "mergeline_requests_in_flight", len(tasks))
        tokens = await asyncio.to_thread(server.metric, "vllm:generation_tokens_total")
        await reaches(server, "vllm:generation_tokens_total", tokens + 200)  # streams have begun
        engine = _process(server, "VLLM::EngineCore")
        forked = f"PPid:\t{_process(server, 'mergeline::fork-server')}\n"
        assert forked in Path(f"/proc/{engine}/status").read_text()
        os.kill(engine, fault)
        async with asyncio.timeout(limit_s):
            await asyncio.to_thread(server.process.wait, limit_s)
        return {name: await task for name, task in tasks.items()}


def _process(server: ServerProcess, title: str) -> int:
    (pid,) = [
        pid for pid in server.descendants() if title in Path(f"/proc/{pid}/cmdline").read_text()
    ]
    return pid


def _refused(answer: httpx.Response) -> None:
    assert (answer.status_code, answer.json()["error_type"]) == (500, "engine_died")
    assert "retry-after" not in answer.headers
    assert "engine" in answer.json()["error"]


def _events(answer: httpx.Response) -> list[Any]:
    assert answer.status_code == 200  # it had begun
    lines = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1] if not line.startswith(":")]
