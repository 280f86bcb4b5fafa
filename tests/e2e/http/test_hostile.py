"""Hostile and unlucky traffic on the real engine: nobody else gets a wrong answer, or none."""

import asyncio
import json
import shutil
import socket
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.http.conftest import BOSS, STALL_S
from tests.e2e.http.connection import connected
from tests.models import tiny_adapter
from tests.server import ServerProcess

PROMPT = "感冒发烧咳嗽三天了，吃什么药比较好，需要去医院吗？" * 20


def load(http: httpx.Client, path: Path) -> None:
    answer = http.post("/admin/adapters", json={"name": "hot", "path": str(path)}, headers=BOSS)
    assert answer.status_code == 200, answer.text


def unload(http: httpx.Client) -> None:
    assert http.delete("/admin/adapters/hot", headers=BOSS).status_code == 200


def logprobs(http: httpx.Client) -> dict[int, float]:
    parameters = {"adapter": "hot", "max_tokens": 1, "logprobs": 20}
    answer = http.post("/generate", json={"prompt": PROMPT, "parameters": parameters}).json()
    return {top["token_id"]: top["logprob"] for top in answer["logprobs"][0]["top_logprobs"]}


@pytest.mark.parametrize("kind", ["the same place", "another place"])
def test_an_adapter_that_is_loaded_again_answers_with_its_new_weights(
    http: httpx.Client, demo: Path, tmp_path: Path, kind: str
) -> None:
    first, second = (
        tiny_adapter(demo / "base", tmp_path / f"seed-{seed}", std=0.3, seed=seed)
        for seed in (1, 2)
    )
    load(http, second)
    truth = logprobs(http)
    unload(http)
    load(http, first)
    old = logprobs(http)
    unload(http)
    if kind == "the same place":
        shutil.copytree(second, first, dirs_exist_ok=True)
    load(http, first if kind == "the same place" else second)
    assert logprobs(http) == truth != old
    unload(http)


@pytest.mark.parametrize("path", ["/generate", "/v1/completions"])
def test_unloading_during_a_list_waits_for_it_and_mixes_nothing(
    impatient: ServerProcess, http: httpx.Client, demo: Path, tmp_path: Path, path: str
) -> None:
    load(http, tiny_adapter(demo / "base", tmp_path / "adapter", std=0.3, seed=3))
    prompts = [f"{i} 感冒了怎么办？" for i in range(40)]
    ours = {"prompt": prompts, "parameters": {"adapter": "hot", "max_tokens": 20}}
    theirs = {"model": "hot", "prompt": prompts, "max_tokens": 20, "temperature": 0}
    body = ours if path == "/generate" else theirs
    undisturbed = _texts(http.post(path, json=body))

    async def unload_meanwhile() -> tuple[httpx.Response, httpx.Response]:
        async with httpx.AsyncClient(base_url=impatient.url, timeout=120) as client:
            asked = asyncio.create_task(client.post(path, json=body))
            while not (await client.get("/get_load")).json()["load"]:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
            gone = await client.delete("/admin/adapters/hot", headers=BOSS)
            return await asked, gone

    answer, gone = asyncio.run(unload_meanwhile())
    assert gone.status_code == 200
    assert _texts(answer) == undisturbed
    assert http.post(path, json=body).status_code == (400 if path == "/generate" else 404)


def _texts(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    told = answer.json()
    if "results" in told:
        assert [one["error"] for one in told["results"]] == [None] * len(told["results"])
        return [one["generated_text"] for one in told["results"]]
    return [one["text"] for one in told["choices"]]


def test_a_long_answer_that_is_not_streamed_is_no_stall(http: httpx.Client) -> None:
    began, prompts = time.monotonic(), 16
    while time.monotonic() - began < STALL_S + 1:  # until it takes longer than the limit
        began = time.monotonic()
        parameters = {"max_tokens": 900, "ignore_eos": True}
        body = {"prompt": ["感冒"] * prompts, "parameters": parameters}
        assert http.post("/generate", json=body).status_code == 200
        prompts *= 4


@pytest.mark.anyio
async def test_a_stream_that_nobody_reads_is_no_stall_and_holds_up_no_unloading(
    impatient: ServerProcess, demo: Path, tmp_path: Path
) -> None:
    adapter = tiny_adapter(demo / "base", tmp_path / "adapter", std=0.3, seed=4)
    async with (
        httpx.AsyncClient(base_url=impatient.url, timeout=60) as client,
        connected(impatient) as one,
    ):
        body: dict[str, Any] = {"name": "hot", "path": str(adapter)}
        await client.post("/admin/adapters", json=body, headers=BOSS)
        parameters = {"adapter": "hot", "max_tokens": 900, "ignore_eos": True}
        await one.post("/generate", {"prompt": "感冒", "parameters": parameters, "stream": True})
        await one.until(b"data: ")
        one.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.sleep(STALL_S + 1)
        async with asyncio.timeout(30):
            gone = await client.delete("/admin/adapters/hot", headers=BOSS)
        assert gone.status_code == 200
        assert (await client.get("/readyz")).status_code == 200


@pytest.mark.parametrize(
    ("prompt", "cut"), [("机密病历：张三龘", 1), ("机密病历：张三龘", 2), ("机密\ufffd", 0)]
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_that_ends_inside_a_character_is_not_repeated(
    http: httpx.Client, prompt: str, cut: int, stream: bool
) -> None:
    ids = http.post("/tokenize", json={"prompt": prompt, "raw": True}).json()["tokens"]
    body = {"model": "base", "prompt": ids[: len(ids) - cut], "max_tokens": 6, "ignore_eos": True,
            "temperature": 0, "stream": stream}  # fmt: skip
    assert "机密" not in http.post("/v1/completions", json=body).text
    answer = http.post(
        "/generate", json={"prompt": "机密\ufffd", "parameters": {"raw": True, "max_tokens": 6}}
    )
    assert "机密" not in answer.json()["generated_text"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("count", [0, 1, 5])
def test_log_probabilities_fit_the_text(http: httpx.Client, count: int, stream: bool) -> None:
    text = http.post("/generate", json={"prompt": PROMPT, "parameters": {"max_tokens": 24}}).json()
    stops: list[dict[str, Any]] = [{}, {"stop": text["generated_text"][3:5] or "。"},
                                   {"structured_outputs": {"choice": ["是", "否"]}}]  # fmt: skip
    for more in stops:
        parameters = {"max_tokens": 24, "logprobs": count, **more}
        body = {"prompt": PROMPT, "parameters": parameters, "stream": stream}
        answer = http.post("/generate", json=body)
        told = json.loads(answer.text.split("data: ")[-2]) if stream else answer.json()
        tokens = "".join(position["token"] for position in told["logprobs"])
        assert tokens == told["generated_text"]
        assert {len(position["top_logprobs"]) for position in told["logprobs"]} == {count}
        assert "Infinity" not in answer.text


@pytest.mark.parametrize("temperature", [0, 1.0])
def test_bad_words_are_in_no_text(http: httpx.Client, temperature: float) -> None:
    plain = {"max_tokens": 40}
    text = http.post("/generate", json={"prompt": PROMPT, "parameters": plain}).json()
    said = text["generated_text"]
    words = [*sorted({*said[:6]} - {" ", "\n"})[:3], said[1:3]]
    parameters = {**plain, "bad_words": words, "temperature": temperature, "n": 1}
    body = {"prompt": [PROMPT] * 8, "parameters": parameters}
    for one in http.post("/generate", json=body).json()["results"]:
        assert not [word for word in words if word in one["generated_text"]]
        assert one["error"] is None


BOTH = {
    "structured_outputs": {"choice": ["是", "否"]},
    "bad_words": ["是"],
    "allowed_token_ids": [5, 6, 7],
    "ignore_eos": True,
}
CONTRADICTIONS = [
    ("allowed_token_ids", "structured_outputs"), ("allowed_token_ids", "bad_words"),
    ("bad_words", "structured_outputs"), ("ignore_eos", "structured_outputs"),
    ("ignore_eos", "bad_words"),
]  # fmt: skip


@pytest.mark.parametrize(("one", "other"), CONTRADICTIONS)
def test_what_contradicts_itself_is_refused_by_name(
    http: httpx.Client, one: str, other: str
) -> None:
    both = {name: BOTH[name] for name in (one, other)}
    answer = http.post("/generate", json={"prompt": "感冒", "parameters": both})
    assert (answer.status_code, answer.json()["param"]) == (400, f"parameters.{one}")
    body = {"model": "base", "prompt": "感冒", "max_tokens": 4, **both}
    answer = http.post("/v1/completions", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, one)


def test_a_pipelined_request_has_no_share_in_the_one_before(impatient: ServerProcess) -> None:
    """It begins inside the task of that one, whose allowance /generate would spend."""
    many = {"max_tokens": 300, "ignore_eos": True, "logprobs": 20}  # too many for /v1
    bodies = {
        "/v1/completions": {"model": "base", "prompt": "感冒", "max_tokens": 2},
        "/generate": {"prompt": "感冒", "parameters": many},
    }
    sent = b""
    for path, body in bodies.items():
        content = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        sent += f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content
    with socket.create_connection(("127.0.0.1", impatient.port), 60) as connection:
        connection.sendall(sent)
        told = b""
        while told.count(b"HTTP/1.1 ") < 2:
            told += connection.recv(2**16)
    assert told.count(b"HTTP/1.1 200") == 2, told[-300:]
