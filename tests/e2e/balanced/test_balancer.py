"""What the balancer must not change: every field, every answer, every refusal."""

import asyncio
import json
from typing import Any

import httpx
import pytest

from service.parameters import Parameters
from tests.e2e.balanced.replicas import HEADERS, Replicas
from tests.e2e.waiting import until, wait_given_up

SHORT = {"max_tokens": 6, "ignore_eos": True}
PARAMETERS: tuple[dict[str, Any], ...] = (
    {
        "n": 2, "temperature": 0.8, "top_p": 0.9, "top_k": 40, "min_p": 0.01, "seed": 7,
        "max_tokens": 8, "min_tokens": 2, "stop": ["。"], "stop_token_ids": [9], "logprobs": 2,
        "bad_words": ["坏"], "presence_penalty": 0.1, "frequency_penalty": 0.1,
        "repetition_penalty": 1.1, "logit_bias": {"20": 1.5}, "include_stop_str_in_output": True,
        "skip_special_tokens": False, "timeout_s": 60, "priority": 3, "request_id": "of-mine",
    },
    {"allowed_token_ids": [20, 21, 22, 23], "raw": True, **SHORT},
    {"adapter": "medical", "max_new_tokens": 7, "do_sample": False, "ignore_eos": True},
    {"adapter": "noise", "preset": "short"},
    {"structured_outputs": {"choice": ["发热", "咳嗽"]}},
    {"system": "你是医生", "history": [["头痛", "多休息"]], "thinking": False, **SHORT},
    {"beam_width": 3, "length_penalty": 0.7, "max_tokens": 5},
    {"num_beams": 2, "max_tokens": 5},
    {"use_beam_search": True, "best_of": 2, "max_tokens": 5},
)  # fmt: skip
BODIES: tuple[tuple[str, dict[str, Any]], ...] = (
    *(("/generate", {"prompt": "感冒", "parameters": each}) for each in PARAMETERS),
    ("/generate", {"input": ["感冒", "发烧三天"], "parameters": SHORT}),
    ("/generate", {"prompt": ["感冒"], "parameters": SHORT, "stream": True}),
    ("/generate", {"prompt": "感冒", "parameters": SHORT, "stream": True}),
    ("/generate", {"prompt": "感冒", "parameters": {"top_p": 2}}),
    ("/generate", {"prompt": "感冒", "parameters": {"no_such": 1}}),
    ("/generate", {"prompt": "感冒", "parameters": {"timeout_s": 0.0001, "max_tokens": 900}}),
    ("/generate", {"prompt": ["很长" * 40_000], "parameters": SHORT}),
    ("/tokenize", {"prompt": "感冒", "raw": True}),
    ("/detokenize", {"tokens": [20, 21]}),
    ("/v1/completions", {"model": "demo", "prompt": "感冒", "max_tokens": 5, "temperature": 0}),
    ("/v1/chat/completions", {"model": "noise", "messages": [{"role": "user", "content": "痛"}],
                              "max_tokens": 5, "temperature": 0, "stream": True}),
)  # fmt: skip
# a delta is in the joined text, and holds as many tokens as happened to be there
CHANGING = ("id", "created", "request_id", "delta")
LARGER_THAN_A_BUFFER = 256 * 1024
ENDLESS = {"max_tokens": 3000, "ignore_eos": True}


def told(answer: httpx.Response) -> tuple[int, str, Any]:
    """Status, type and content, without what differs between two equal requests."""
    kind = answer.headers["Content-Type"]
    if kind.startswith("text/event-stream"):
        events = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
        assert events[-1] == "[DONE]"
        whole = [json.loads(event) for event in events[:-1] if not event.startswith(":")]
        # how many tokens an event brings depends on how busy both sides are
        text = "".join(piece(event) for event in whole)
        return answer.status_code, kind, (text, constant(whole[-1]))
    return answer.status_code, kind, constant(answer.json())


def piece(event: Any) -> str:
    """What an event adds to the text, in our form or in OpenAI's."""
    choices = event.get("choices")
    text = choices[0]["delta"].get("content") if choices else event.get("text")
    return text or ""


def constant(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: constant(one) for name, one in value.items() if name not in CHANGING}
    return [constant(one) for one in value] if isinstance(value, list) else value


def ask(url: str, path: str, body: dict[str, Any], **more: str) -> httpx.Response:
    return httpx.post(url + path, json=body, headers=HEADERS | more, timeout=120)


def test_the_requests_of_this_file_have_every_parameter() -> None:
    given = {name for each in (*PARAMETERS, SHORT) for name in each}
    assert given == set(Parameters.model_fields)
    assert max(len(json.dumps(body)) for _, body in BODIES) > LARGER_THAN_A_BUFFER


@pytest.mark.parametrize(("path", "body"), BODIES)
def test_an_answer_is_the_one_that_a_replica_gives(
    scaled: Replicas, path: str, body: dict[str, Any]
) -> None:
    direct = [told(ask(server.url, path, body)) for server in scaled.servers]
    assert direct[0] == direct[1], "the replicas themselves differ"
    assert [told(ask(scaled.url, path, body)) for _ in range(2)] == direct


def test_keys_and_request_ids_pass(scaled: Replicas) -> None:
    body = {"prompt": "感冒", "parameters": SHORT}
    answer = ask(scaled.url, "/generate", body, **{"X-Request-Id": "from-the-client"})
    assert answer.json()["request_id"] == answer.headers["X-Request-Id"] == "from-the-client"
    refused = ask(scaled.url, "/generate", body, Authorization="Bearer x")
    assert (refused.status_code, refused.json()["error_type"]) == (401, "unauthorized")


def test_tokens_come_as_they_are_made(scaled: Replicas) -> None:
    """Many pieces are there while most of the answer is not; a buffer of 16 KiB would hold them."""
    body = {"prompt": "感冒", "parameters": ENDLESS, "stream": True}
    url = scaled.url + "/generate"
    with httpx.stream("POST", url, json=body, headers=HEADERS, timeout=120) as answer:
        pieces = answer.iter_raw()
        came = sum(len(next(pieces)) for _ in range(20))
        assert in_flight(scaled) == 1, "all 3000 tokens were there before 20 pieces had come"
    assert came < 16 * 1024
    for server in scaled.servers:
        wait_given_up(server)


def in_flight(scaled: Replicas) -> float:
    return sum(one.metric("mergeline_requests_in_flight") for one in scaled.servers)


def test_a_client_that_goes_away_aborts_its_request(scaled: Replicas) -> None:
    asyncio.run(_vanish(scaled))
    for server in scaled.servers:
        wait_given_up(server)


async def _vanish(scaled: Replicas) -> None:
    body = {"prompt": "感冒", "parameters": ENDLESS}

    async def both() -> bool:
        return await asyncio.to_thread(in_flight, scaled) == 2

    async with httpx.AsyncClient(base_url=scaled.url, headers=HEADERS, timeout=60) as http:
        bodies = (body, body | {"stream": True})
        asked = [asyncio.create_task(http.post("/generate", json=each)) for each in bodies]
        await until(both)
        for one in asked:
            one.cancel()
        await asyncio.wait(asked)


def test_what_clients_bring_upon_themselves_takes_no_replica_out(scaled: Replicas) -> None:
    hasty = {"prompt": "感冒", "parameters": {"timeout_s": 0.0001, "max_tokens": 900}}
    statuses = [ask(scaled.url, "/generate", hasty).status_code for _ in range(12)]
    assert statuses == [504] * 12
    assert scaled.balancer.servers_up() == 2


@pytest.mark.parametrize("path", ["/metrics", "/abort", "/get_load", "/admin/adapters"])
def test_a_route_about_one_replica_is_not_for_the_balancer(scaled: Replicas, path: str) -> None:
    answer = httpx.get(scaled.url + path, headers=HEADERS, timeout=60)
    assert (answer.status_code, answer.json()["error_type"]) == (404, "not_found")
