"""What the soak asks for: every kind of request, and what its answer has to be."""

import asyncio
import json
import random
from collections.abc import Awaitable, Callable
from typing import Any

import httpx

from tests.service.bad_requests import BAD_REQUESTS

Kind = Callable[[httpx.AsyncClient], Awaitable[None]]
WORDS = [
    "感冒",
    "发烧三天，咳嗽",
    "高血压患者能不能吃阿司匹林",
    "头痛伴恶心",
    "请抽取实体：病人胸痛",
]
CHOICES = ["是", "否", "不确定"]


class UnexpectedError(Exception):
    """An answer other than the contract's."""


def kinds(adapters: list[str]) -> dict[str, Kind]:
    """By name; each asks once, and raises UnexpectedError or httpx's errors."""
    found: dict[str, Kind] = {
        "one": one, "list": a_list, "stream": stream, "list stream": list_stream,
        "sampled": sampled, "beams": beams, "choice": choice, "json": json_schema,
        "client leaves": client_leaves, "abort": abort, "timeout": timeout, "bad": bad,
        "v1": v1_completion, "v1 chat stream": v1_chat_stream, "companions": companions,
    }  # fmt: skip
    if adapters:
        found["adapter"] = lambda http: one(http, adapter=random.choice([*adapters, None]))
    return found


async def one(http: httpx.AsyncClient, **parameters: Any) -> None:
    tokens = random.randint(1, 64)
    answer = await _post(http, {"prompt": _prompt(), "parameters": _exactly(tokens) | parameters})
    _expect(answer.json()["num_output_tokens_cf"] == tokens, answer)


async def a_list(http: httpx.AsyncClient) -> None:
    """Its second item is bad: it has a control token."""
    prompts = [_prompt(), "</s>", *(_prompt() for _ in range(random.randint(1, 30)))]
    answer = await _post(http, {"prompt": prompts, "parameters": _exactly(8)})
    failed = [result["index"] for result in answer.json()["results"] if result["error"]]
    _expect(failed == [1] and len(answer.json()["results"]) == len(prompts), answer)


async def stream(http: httpx.AsyncClient) -> None:
    body = {"prompt": _prompt(), "parameters": _exactly(40), "stream": True}
    answer = await _post(http, body)
    *deltas, end = _events(answer)
    text = "".join(delta["text"] for delta in deltas)
    _expect(end["generated_text"] == text and end["num_output_tokens_cf"] == 40, answer)


async def list_stream(http: httpx.AsyncClient) -> None:
    body = {"prompt": [_prompt() for _ in range(6)], "parameters": _exactly(20), "stream": True}
    answer = await _post(http, body)
    _expect(sorted(event["index"] for event in _events(answer)) == list(range(6)), answer)


async def sampled(http: httpx.AsyncClient) -> None:
    parameters = _exactly(16) | {"n": 2, "temperature": 1.0, "logprobs": 3}
    answer = await _post(http, {"prompt": _prompt(), "parameters": parameters})
    _expect([len(each["logprobs"]) for each in answer.json()["outputs"]] == [16, 16], answer)


async def beams(http: httpx.AsyncClient) -> None:
    parameters = {"beam_width": 3, "max_tokens": 6}
    answer = await _post(http, {"prompt": _prompt(), "parameters": parameters})
    _expect(len(answer.json()["outputs"]) == 3, answer)


async def choice(http: httpx.AsyncClient) -> None:
    parameters = {"structured_outputs": {"choice": CHOICES}}
    answer = await _post(http, {"prompt": _prompt(), "parameters": parameters})
    _expect(answer.json()["generated_text"] in CHOICES, answer)


async def json_schema(http: httpx.AsyncClient) -> None:
    """Another schema each time, so that no compiled one is found again."""
    name = f"field{random.randrange(10**6)}"
    fields = {name: {"enum": ["a", "b"]}}
    schema: dict[str, Any] = {"type": "object", "properties": fields, "required": [name]}
    schema["additionalProperties"] = False
    parameters = {"structured_outputs": {"json": schema}, "max_tokens": 128}
    answer = await _post(http, {"prompt": _prompt(), "parameters": parameters})
    made = json.loads(answer.json()["generated_text"])
    _expect(made.keys() == {name} and made[name] in ("a", "b"), answer)


async def client_leaves(http: httpx.AsyncClient) -> None:
    body = {"prompt": _prompt(), "parameters": _exactly(2000), "stream": random.random() < 0.5}
    try:
        async with asyncio.timeout(random.random()):
            await http.post("/generate", json=body)
    except TimeoutError:
        return
    raise UnexpectedError("2000 tokens in less than a second")


async def abort(http: httpx.AsyncClient) -> None:
    name = f"soak-{random.randrange(10**12)}"
    parameters = _exactly(2000) | {"request_id": name}
    asked = asyncio.create_task(_post(http, {"prompt": _prompt(), "parameters": parameters}))
    aborted = 0
    while not aborted and not asked.done():
        await asyncio.sleep(0.05)
        aborted = (await http.post("/abort", json={"request_id": name})).json()["aborted"]
    answer = await asked
    _expect(answer.json()["finish_reason"] == "abort", answer)


async def timeout(http: httpx.AsyncClient) -> None:
    parameters = _exactly(2000) | {"timeout_s": 0.2}
    answer = await _post(http, {"prompt": _prompt(), "parameters": parameters}, status=504)
    _expect(answer.json()["error_type"] == "timeout", answer)


async def bad(http: httpx.AsyncClient) -> None:
    wrong = random.choice(BAD_REQUESTS)
    answer = await http.post("/generate", content=wrong.bytes(), headers=wrong.headers)
    _expect(answer.status_code == wrong.status, answer)


async def v1_completion(http: httpx.AsyncClient) -> None:
    body = {"model": "model", "prompt": _prompt(), "max_tokens": 24, "ignore_eos": True}
    answer = await _post(http, body, "/v1/completions")
    _expect(answer.json()["usage"]["completion_tokens"] == 24, answer)


async def v1_chat_stream(http: httpx.AsyncClient) -> None:
    message = {"role": "user", "content": _prompt()}
    body = {"model": "model", "messages": [message], "max_tokens": 24, "stream": True}
    answer = await _post(http, body, "/v1/chat/completions")
    _expect(_events(answer)[-1]["choices"][0]["finish_reason"] in ("stop", "length"), answer)


async def companions(http: httpx.AsyncClient) -> None:
    for path in ("/readyz", "/info", "/metrics", "/get_load", "/v1/models", "/"):
        answer = await http.get(path)
        _expect(answer.status_code == 200, answer)
    answer = await _post(http, {"prompt": _prompt()}, "/tokenize")
    _expect(answer.json()["count"] > 0, answer)


def _prompt() -> str:
    """Some are alike and found in the cache of prefixes; most are not."""
    return "，".join(random.choices(WORDS, k=random.randint(1, 20)))


def _exactly(tokens: int) -> dict[str, Any]:
    return {"max_tokens": tokens, "ignore_eos": True}


async def _post(
    http: httpx.AsyncClient, body: dict[str, Any], path: str = "/generate", status: int = 200
) -> httpx.Response:
    answer = await http.post(path, json=body)
    _expect(answer.status_code == status, answer)
    return answer


def _events(answer: httpx.Response) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
    _expect(lines[-1] == "[DONE]", answer)
    return [json.loads(line) for line in lines[:-1] if not line.startswith(":")]


def _expect(holds: bool, answer: httpx.Response) -> None:
    if not holds:
        raise UnexpectedError(f"{answer.request.url.path} {answer.status_code} {answer.text[:300]}")
