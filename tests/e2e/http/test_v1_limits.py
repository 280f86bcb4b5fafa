"""Requests under /v1 are held to the limits of /generate, and answered in vLLM's shape."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

CHAT = {"role": "user", "content": "感冒"}


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
        ("priority", 2**62), ("stop", ["x"] * 65), ("prompt", ["a"] * 2049),
        ("logit_bias", {str(i): 1 for i in range(1025)}), ("allowed_token_ids", list(range(1025))),
        ("logprob_token_ids", [1]), ("kv_transfer_params", {"a": 1}), ("vllm_xargs", {"a": 1}),
        ("prompt_embeds", "AAAA"), ("bad_words", ["x" * 9000]),
        ("structured_outputs", {"regex": "(a{600}){600}"}),
        ("use_beam_search", "yes"),
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
    for number in (b"1e400", b"-1e999", b"NaN", b"Infinity", b"1" + b"0" * 30, b"9" * 5000):
        content = b'{"prompt": "a", "temperature": ' + number + b"}"
        answer = http.post("/v1/completions", content=content, headers=json_body)
        assert answer.status_code == 400, number


CHAT_BODY = {"messages": [CHAT], "logprobs": True, "ignore_eos": True, "temperature": 1.0}
LONG_PROMPT = [100 + i % 900 for i in range(300)]
LONG_ANSWERS = {
    "chat": ("chat/completions", {**CHAT_BODY, "top_logprobs": 20, "max_tokens": 400}),
    "many": ("chat/completions", {**CHAT_BODY, "n": 100, "max_tokens": 100}),
    "completions": ("completions", {"prompt": ["a"] * 100, "logprobs": 5, "max_tokens": 20}),
    "a prompt": ("completions", {"prompt": LONG_PROMPT * 2, "prompt_logprobs": 20}),
    "echo": ("completions", {"prompt": [LONG_PROMPT] * 15, "echo": True, "logprobs": 1}),
    "echo, streamed": (
        "completions",
        {"prompt": [LONG_PROMPT] * 15, "echo": True, "logprobs": 1, "stream": True},
    ),
    "responses": (
        "responses",
        {
            "input": "a",
            "top_logprobs": 20,
            "include": ["message.output_text.logprobs"],
            "max_output_tokens": 400,
        },
    ),
}
LONG_ANSWERS["responses, streamed"] = (
    "responses",
    {**LONG_ANSWERS["responses"][1], "stream": True},
)


@pytest.mark.parametrize("kind", LONG_ANSWERS)
def test_an_answer_of_too_many_log_probabilities_is_refused(http: httpx.Client, kind: str) -> None:
    """It would be written in one go, for seconds in which nobody else is served."""
    path, body = LONG_ANSWERS[kind]
    answer = http.post(f"/v1/{path}", json={"model": "base", **body})
    assert answer.status_code == 400, answer.text[:500]
    assert "max_answer_logprobs" in answer.json()["error"]["message"]


def test_an_answer_of_no_set_length_is_cut_to_the_log_probabilities_that_it_may_hold(
    http: httpx.Client,
) -> None:
    body = {"model": "base", **CHAT_BODY, "top_logprobs": 20, "n": 4}
    told = http.post("/v1/chat/completions", json=body).json()
    assert [len(each["logprobs"]["content"]) for each in told["choices"]] == [4096 // 21 // 4] * 4
    assert {each["finish_reason"] for each in told["choices"]} == {"length"}


def test_the_conversations_of_a_batch_share_what_it_may_have(http: httpx.Client) -> None:
    body = {"model": "base", **CHAT_BODY, "top_logprobs": 20, "messages": [[CHAT], [CHAT]]}
    answer = http.post("/v1/chat/completions/batch", json=body)
    told = [len(each["logprobs"]["content"]) for each in answer.json()["choices"]]
    assert told == [4096 // 2 // 21] * 2


def test_steps_of_a_beam_search_are_no_answer_of_log_probabilities(http: httpx.Client) -> None:
    body = {"model": "base", "prompt": ["感冒", "发烧"], "max_tokens": 90, "temperature": 0}
    answer = http.post("/v1/completions", json={**body, "use_beam_search": True, "n": 8})
    assert answer.status_code == 200, answer.text[:300]
    assert len(answer.json()["choices"]) == 16


def test_each_bad_item_of_an_input_is_told_alone(http: httpx.Client) -> None:
    """500 of them cost vLLM a second of the event loop, and 60 MB of text."""
    good = {"role": "user", "content": "a"}
    for bad in ({"type": "x"}, 1, None, {"role": "user"}, [good]):
        body = {"model": "base", "input": [good, *[bad] * 500], "max_output_tokens": 1}
        answer = http.post("/v1/responses", json=body)
        assert answer.status_code == 400
        assert answer.json()["error"]["message"].startswith("input.1")
        assert len(answer.content) < 1000


@pytest.mark.parametrize(
    "item",
    [
        {"type": "reasoning", "summary": []},
        {
            "type": "message",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "a"}],
        },
        {"type": "message", "role": "assistant", "content": [{"type": "refusal", "refusal": "a"}]},
        {"role": "assistant", "content": "a"},
        {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"},
        {"role": "user", "content": [{"type": "input_image", "image_url": "data:a"}]},
    ],
    ids=["reasoning", "an answer", "a refusal", "short", "a call", "an image"],
)
def test_items_that_vllm_completes_are_no_bad_ones(
    http: httpx.Client, item: dict[str, Any]
) -> None:
    body = {"model": "base", "input": [CHAT, item, CHAT], "max_output_tokens": 1}
    assert "no such kind" not in http.post("/v1/responses", json=body).text


def test_log_probabilities_of_prompt_and_answer_share_one_allowance(http: httpx.Client) -> None:
    body = {"model": "base", **CHAT_BODY, "prompt_logprobs": 20, "top_logprobs": 20}
    answer = http.post("/v1/chat/completions", json=body).json()
    prompt = len(answer["prompt_logprobs"])
    content = answer["choices"][0]["logprobs"]["content"]
    assert len(content) == 4096 // 21 - prompt


def test_a_stream_may_have_any_number_of_log_probabilities(http: httpx.Client) -> None:
    body = {"model": "base", **CHAT_BODY, "top_logprobs": 20, "max_tokens": 410, "stream": True}
    answer = http.post("/v1/chat/completions", json=body)
    events = [
        json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")
    ]
    told = [event["choices"][0]["logprobs"] or {"content": []} for event in events]
    content = [each for logprobs in told for each in logprobs["content"]]
    assert len(content) == 410


@pytest.mark.parametrize(
    ("prompts", "fields", "status"), [(1, 2000, 400), (400, 100, 400), (1, 300, 200), (20, 20, 200)]
)
@pytest.mark.parametrize("form", ["structured_outputs", "response_format"])
def test_what_is_copied_for_each_prompt_is_bounded(
    http: httpx.Client, prompts: int, fields: int, status: int, form: str
) -> None:
    each = {"type": "string", "description": "x" * 600}
    schema = {"type": "object", "properties": {f"f{i}": each for i in range(fields)}}
    if form == "response_format":
        constraint: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    else:
        constraint = {"json": schema}
    body = {"model": "base", "prompt": ["感冒"] * prompts, "max_tokens": 2, form: constraint}
    answer = http.post("/v1/completions", json=body)
    told = answer.text[:300]
    if fields * 650 > 2**16 and status == 200:  # no matter how few prompts
        assert (answer.status_code, "65536" in told) == (400, True), told
    else:
        assert answer.status_code == status, told
        assert (status == 200) or ("beside the prompts" in told), told


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


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "text",
    [
        {"format": {"type": "json_schema", "name": "x", "schema": {"minItems": 10**9}}},
        {"format": {"type": "json_schema", "name": "x", "schema": {"const": "x" * 2**17}}},
    ],
)
def test_what_the_engine_refuses_cuts_no_stream_of_responses(
    http: httpx.Client, text: dict[str, Any], stream: bool
) -> None:
    body = {"model": "base", "input": "a", "max_output_tokens": 2, "stream": stream, "text": text}
    answer = http.post("/v1/responses", json=body)
    assert answer.status_code == 400, answer.text
    assert "schema" in answer.json()["error"]["message"]
