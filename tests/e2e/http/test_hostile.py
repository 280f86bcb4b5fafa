"""Hostile and unlucky traffic on the real engine: nobody else gets a wrong answer, or none."""

import asyncio
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.http.connection import connected
from tests.models import tiny_adapter
from tests.server import ServerProcess, serving

STALL_S = 2
BOSS = {"Authorization": "Bearer boss"}
PROMPT = "感冒发烧咳嗽三天了，吃什么药比较好，需要去医院吗？" * 20
CHAT = {"role": "user", "content": "感冒"}


@pytest.fixture(scope="module")
def server(demo: Path, logs: Path) -> Iterator[ServerProcess]:
    """Gives an engine up that computes nothing for two seconds."""
    settings = {
        "served_name": "base",
        "admin_keys": "boss",
        "max_adapters": 2,
        "max_adapter_rank": 8,
        "stall_timeout_s": STALL_S,
        "max_model_len": 1024,
        "cpu_kvcache_gib": 1,
    }
    with serving(demo / "base", logs / "hostile.log", **settings) as ready:
        yield ready


@pytest.fixture
def http(server: ServerProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=120) as client:
        yield client
    assert httpx.get(server.url + "/readyz", timeout=10).status_code == 200


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
    server: ServerProcess, http: httpx.Client, demo: Path, tmp_path: Path, path: str
) -> None:
    load(http, tiny_adapter(demo / "base", tmp_path / "adapter", std=0.3, seed=3))
    prompts = [f"{i} 感冒了怎么办？" for i in range(40)]
    ours = {"prompt": prompts, "parameters": {"adapter": "hot", "max_tokens": 20}}
    theirs = {"model": "hot", "prompt": prompts, "max_tokens": 20, "temperature": 0}
    body = ours if path == "/generate" else theirs
    undisturbed = _texts(http.post(path, json=body))

    async def unload_meanwhile() -> tuple[httpx.Response, httpx.Response]:
        async with httpx.AsyncClient(base_url=server.url, timeout=120) as client:
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
    server: ServerProcess, demo: Path, tmp_path: Path
) -> None:
    adapter = tiny_adapter(demo / "base", tmp_path / "adapter", std=0.3, seed=4)
    async with (
        httpx.AsyncClient(base_url=server.url, timeout=60) as client,
        connected(server) as one,
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


SURROGATE = {
    "prompt": '"\\ud800"',
    "stop": '["\\udfff"]',
    "user": '"a\\uD83D"',
    "model": '"\\ud800"',
    "messages": '[{"role": "user", "content": "\\ud800"}]',
    "\\ud800": "1",
}


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/v1/responses"])
@pytest.mark.parametrize("field", SURROGATE)
def test_half_a_character_is_a_400_in_every_field_of_v1(
    http: httpx.Client, path: str, field: str
) -> None:
    content = f'{{"{field}": {SURROGATE[field]}}}'.encode()
    answer = http.post(path, content=content, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, 400)
    assert "surrogate" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 129), ("n", 0), ("n", -1), ("n", 10**9), ("n", 1e300), ("best_of", 1000),
        ("request_id", "x" * 129), ("request_id", "a b"), ("request_id", ""), ("request_id", 7),
        ("priority", 2**62), ("stop", ["x"] * 65), ("prompt", ["a"] * 2049), ("max_tokens", 10**30),
        ("logit_bias", {str(i): 1 for i in range(1025)}), ("allowed_token_ids", list(range(1025))),
        ("logprob_token_ids", [1]), ("kv_transfer_params", {"a": 1}), ("vllm_xargs", {"a": 1}),
        ("prompt_embeds", "AAAA"), ("bad_words", ["x" * 9000]),
        ("structured_outputs", {"regex": "(a{600}){600}"}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("stream", [False, True])
def test_v1_is_held_to_the_limits_of_generate(
    http: httpx.Client, field: str, value: Any, stream: bool
) -> None:
    body = {"model": "base", "prompt": "a", "max_tokens": 2, "stream": stream, field: value}
    answer = http.post("/v1/completions", json=body)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["code"] == 400
    assert field in f"{error['param']} {error['message']}"


def test_half_a_million_numbers_are_too_many_and_numbers_have_to_be_finite(
    http: httpx.Client,
) -> None:
    json_body = {"content-type": "application/json"}
    many = b'{"prompt": [' + b"1," * 600_000 + b"1]}"
    assert http.post("/v1/completions", content=many, headers=json_body).status_code == 413
    for number in (b"1e400", b"-1e999", b"NaN", b"Infinity", b"9" * 5000):
        content = b'{"prompt": "a", "temperature": ' + number + b"}"
        answer = http.post("/v1/completions", content=content, headers=json_body)
        assert answer.status_code == 400, number


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [{"role": "user", "content": "感冒</s>发烧"}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "</s>"}]}]},
        {"messages": [{"role": "</s>", "content": "感冒"}]},
        {"messages": [CHAT, {"role": "assistant", "content": "<s>"}, CHAT]},
        {"messages": [CHAT], "tools": [{"type": "function", "function": {"name": "f",
         "description": "</s>"}}]},
        {"messages": [CHAT], "chat_template_kwargs": {"system": "</s>"}},
    ],
)  # fmt: skip
def test_control_tokens_in_messages_are_refused_under_v1(
    http: httpx.Client, body: dict[str, Any]
) -> None:
    answer = http.post("/v1/chat/completions", json={"model": "base", "max_tokens": 2, **body})
    assert answer.status_code == 400
    assert "control token" in answer.json()["error"]["message"]


HEADERS = {
    "X-data-parallel-rank": ["9", "-1", "x"],
    "X-Vllm-Priority": ["-999", "x", str(2**70)],
    "X-Session-ID": ["x" * 9000],
    "X-Request-Id": ["é".encode().decode("latin-1"), "x" * 9000, "a b"],
    "traceparent": ["00-x-y-z", "00-" + "0" * 32 + "-" + "0" * 16 + "-01"],
    "endpoint-load-metrics-format": ["TEXT", "x"],
}


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, each in HEADERS.items() for v in each])
def test_odd_headers_change_nothing_under_v1(http: httpx.Client, name: str, value: str) -> None:
    body = {"model": "base", "prompt": "感冒", "max_tokens": 4, "temperature": 0}
    plain = http.post("/v1/completions", json=body).json()
    headers = [(name.encode(), value.encode("latin-1"))]
    odd = http.post("/v1/completions", json=body, headers=headers)
    assert odd.status_code == 200
    assert odd.json()["choices"] == plain["choices"]


def test_models_and_errors_name_no_path_of_the_server(http: httpx.Client, demo: Path) -> None:
    (model,) = http.get("/v1/models").json()["data"]
    assert model["root"] == "base"
    assert str(demo) not in json.dumps(model)


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


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "item",
    [
        {"type": "message", "role": "assistant", "content": [], "id": "a", "status": "completed"},
        {"type": "mcp_list_tools", "id": "a", "server_label": "b", "tools": []},
        {"type": "function_call_output", "call_id": "nobody", "output": "1"},
        {},
    ],
)
def test_what_vllm_stumbles_over_is_the_requests_own_fault(
    http: httpx.Client, item: dict[str, Any], stream: bool
) -> None:
    body = {"model": "base", "input": [item], "max_output_tokens": 2, "stream": stream}
    answer = http.post("/v1/responses", json=body)
    assert answer.status_code < 500, answer.text
