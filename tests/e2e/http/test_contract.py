"""Adapters at run time, priorities, timeouts, aborts: where the engine's behaviour is the point."""

import concurrent.futures
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import KEYS, PLACES
from tests.e2e.waiting import STEPS, wait_given_up, wait_log, wait_metric
from tests.server import ServerProcess

PROMPTS = ["感冒了怎么办？", "头痛三天，咳嗽。", "高血压患者的饮食"]
ADAPTERS = [None, "medical", "noise"]
LONG = {"max_tokens": 3000, "ignore_eos": True}


def generate(client: httpx.Client, prompt: Any, **parameters: Any) -> httpx.Response:
    return client.post("/generate", json={"prompt": prompt, "parameters": parameters})


def exactly(client: httpx.Client, prompt: str, adapter: str | None) -> str:
    """12 greedy tokens."""
    named = {} if adapter is None else {"adapter": adapter}
    answer = generate(client, prompt, max_tokens=12, ignore_eos=True, **named)
    assert answer.status_code == 200, answer.text
    text: str = answer.json()["generated_text"]
    return text


def events(answer: httpx.Response) -> list[Any]:
    lines = [line for line in answer.text.split("\n\n") if line.startswith("data: ")]
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def test_base_and_adapters_in_one_batch_are_what_each_is_alone(client: httpx.Client) -> None:
    asked = [(prompt, adapter) for prompt in PROMPTS for adapter in ADAPTERS]
    alone = [exactly(client, *each) for each in asked]
    by_adapter = {tuple(alone[number :: len(ADAPTERS)]) for number in range(len(ADAPTERS))}
    assert len(by_adapter) == len(ADAPTERS), "a mistaken adapter would not be noticed"
    with concurrent.futures.ThreadPoolExecutor(len(asked)) as pool:
        for _ in range(3):
            assert list(pool.map(lambda each: exactly(client, *each), asked)) == alone


def test_adapters_come_and_go_while_requests_run(
    client: httpx.Client, admin: httpx.Client, keyed: ServerProcess, noise: Path
) -> None:
    body = {"name": "third", "path": str(noise)}
    assert generate(client, "头痛", adapter="third").json()["param"] == "parameters.adapter"
    expected = {adapter: exactly(client, PROMPTS[0], adapter) for adapter in ("medical", "noise")}
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        for _ in range(2):
            others = [pool.submit(exactly, client, PROMPTS[0], name) for name in expected]
            assert admin.post("/admin/adapters", json=body).status_code == 200
            assert exactly(client, PROMPTS[0], "third") == expected["noise"]
            assert [other.result() for other in others] == list(expected.values())
            long = {"max_tokens": 400, "ignore_eos": True}
            slow = pool.submit(generate, client, "头痛", adapter="third", **long)
            wait_metric(keyed, "mergeline_requests_in_flight", 1)
            assert admin.delete("/admin/adapters/third").json() == {"unloaded": "third"}
            assert slow.result().json()["num_output_tokens_cf"] == 400
            assert generate(client, "头痛", adapter="third").status_code == 400
    assert admin.delete("/admin/adapters/third").status_code == 404


def test_what_cannot_be_loaded_is_refused_with_the_field(
    client: httpx.Client, admin: httpx.Client, noise: Path
) -> None:
    def refused(name: str, path: Path | str) -> Any:
        answer = admin.post("/admin/adapters", json={"name": name, "path": str(path)})
        assert answer.status_code == 400
        return answer.json()["param"]

    assert refused("noise", noise) == "name"
    assert refused("base", noise) == "name"
    assert refused("other", noise.parent) == "path"
    assert admin.post("/admin/adapters", json={"name": "c", "path": str(noise)}).status_code == 200
    assert refused("d", noise) == "name"  # three places, and three adapters
    served = [each["name"] for each in admin.get("/admin/adapters").json()["adapters"]]
    assert served == ["medical", "noise", "c"] == client.get("/info").json()["adapters"]
    assert admin.delete("/admin/adapters/c").status_code == 200


def test_keys_open_only_their_own_doors(keyed: ServerProcess, logs: Path) -> None:
    def status(path: str, key: str | None) -> int:
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        return httpx.get(keyed.url + path, headers=headers, timeout=60).status_code

    for path, right, wrong in (
        ("/info", KEYS["client"], KEYS["admin"]),
        ("/v1/models", KEYS["client"], KEYS["admin"]),
        ("/admin/adapters", KEYS["admin"], KEYS["client"]),
    ):
        assert [status(path, key) for key in (right, wrong, None)] == [200, 401, 401]
    assert status("/readyz", None) == status("/metrics", None) == 200
    keys = logs / "keys"
    old = keys.read_text()
    keys.write_text("# rotated\nanother-key\n")
    assert [status("/info", key) for key in (KEYS["client"], "another-key")] == [401, 200]
    keys.write_text(old)
    assert [status("/info", key) for key in (KEYS["client"], "another-key")] == [200, 401]


def test_a_later_request_of_lower_priority_number_is_served_first(
    client: httpx.Client, keyed: ServerProcess
) -> None:
    order: list[str] = []

    def run(name: str, priority: int, tokens: int) -> None:
        generate(client, name, priority=priority, max_tokens=tokens, ignore_eos=True)
        order.append(name)

    with concurrent.futures.ThreadPoolExecutor(2 * PLACES + 1) as pool:
        for _ in range(PLACES):
            pool.submit(run, "first", 0, 1000)
        wait_metric(keyed, "vllm:num_requests_running", PLACES)
        for _ in range(PLACES):
            pool.submit(run, "patient", 5, 200)
        wait_metric(keyed, "vllm:num_requests_waiting", PLACES)
        pool.submit(run, "urgent", -5, 20)
    assert order.index("urgent") < order.index("patient")


def test_timeouts_are_504_alone_an_item_in_lists_and_an_event_in_streams(
    client: httpx.Client, keyed: ServerProcess
) -> None:
    slow = {**LONG, "timeout_s": 0.3}
    began = time.monotonic()
    alone = generate(client, "头痛", **slow)
    assert (alone.status_code, alone.json()["error_type"]) == (504, "timeout")
    assert time.monotonic() - began >= 0.3
    assert alone.json()["param"] == "parameters.timeout_s"
    many = generate(client, PROMPTS, **slow)
    assert many.status_code == 200
    assert {one["error"]["error_type"] for one in many.json()["results"]} == {"timeout"}
    # longer, for the first token may take a busy machine a while, and no CPU makes 3000 in it
    patient = {**LONG, "timeout_s": 2}
    body = {"prompt": "头痛", "parameters": patient, "stream": True}
    *deltas, end = events(client.post("/generate", json=body))
    assert deltas
    assert end["error_type"] == "timeout"
    beams = generate(client, "头痛", beam_width=4, **slow)
    assert beams.status_code == 504
    wait_given_up(keyed)


def alone(client: httpx.Client, **how: Any) -> Any:
    return [generate(client, "头痛", **LONG, **how).json()]


def listed(client: httpx.Client, **how: Any) -> Any:
    return generate(client, PROMPTS, **LONG, **how).json()["results"]


def streamed(client: httpx.Client, **how: Any) -> Any:
    body = {"prompt": "头痛", "parameters": {**LONG, **how}, "stream": True}
    return events(client.post("/generate", json=body))[-1:]


def by_beams(client: httpx.Client, **how: Any) -> Any:
    return [generate(client, "头痛", **LONG, beam_width=4, **how).json()]


@pytest.mark.parametrize("asking", [alone, listed, streamed, by_beams])
def test_an_aborted_request_answers_with_what_it_has(
    client: httpx.Client, keyed: ServerProcess, asking: Callable[..., Any]
) -> None:
    name = f"to-abort-{asking.__name__}"
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        begun = keyed.metric(STEPS)
        asked = pool.submit(asking, client, request_id=name)
        wait_metric(keyed, STEPS, begun + 20)  # each has some tokens
        told = client.post("/abort", json={"request_id": name}).json()
        results = asked.result(timeout=120)
    assert told == {"request_id": name, "aborted": len(results)}
    assert {result["finish_reason"] for result in results} == {"abort"}
    assert all(0 < result["num_output_tokens_cf"] < 4 * LONG["max_tokens"] for result in results)
    wait_given_up(keyed)
    assert client.post("/abort", json={"request_id": name}).json()["aborted"] == 0


def test_tokens_told_are_the_tokens_read(client: httpx.Client) -> None:
    for raw in (False, True):
        for prompt in (*PROMPTS, "a 1\n龘"):
            told = client.post("/tokenize", json={"prompt": prompt, "raw": raw}).json()
            usage = generate(client, prompt, raw=raw, max_tokens=1).json()["usage"]
            assert told["count"] == len(told["tokens"]) == usage["prompt_tokens"]
    tokens = client.post("/tokenize", json={"prompt": PROMPTS[0]}).json()["tokens"]
    text = client.post("/detokenize", json={"tokens": tokens}).json()["prompt"]
    assert text == f"<s>问：\n{PROMPTS[0]}\n答：\n"
    assert (
        generate(client, text, raw=True).json()["generated_text"]
        == (generate(client, PROMPTS[0]).json()["generated_text"])
    )


def test_a_deployments_defaults_and_presets_hold_until_a_request_says_otherwise(
    client: httpx.Client,
) -> None:
    for parameters, tokens in (
        ({"ignore_eos": True}, 24),
        ({"preset": "short"}, 5),
        ({"preset": "short", "max_tokens": 7}, 7),
    ):
        assert generate(client, "头痛", **parameters).json()["num_output_tokens_cf"] == tokens


def test_the_log_is_json_and_holds_no_prompt(client: httpx.Client, keyed: ServerProcess) -> None:
    secret = "某某的病历"
    for answer in (
        generate(client, secret, request_id="logged-1", max_tokens=3),
        generate(client, secret + "</s>", request_id="logged-2"),
    ):
        assert answer.headers["x-request-id"].startswith("logged")
    log = wait_log(keyed, '"logged-2"')
    assert secret not in log
    lines = [json.loads(line) for line in log.splitlines() if '"logged-' in line]
    assert [(line["status"], line["completion_tokens"]) for line in lines] == [(200, 3), (400, 0)]
    assert all(line["route"] == "/generate" and line["seconds"] >= 0 for line in lines)
