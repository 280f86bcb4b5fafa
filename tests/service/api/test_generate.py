"""The HTTP contract of POST /generate, against a fake engine."""

import json
from typing import Any

import httpx
import pytest

from service.errors import EngineDiedError
from tests.service.conftest import Ask
from tests.service.fake import FakeEngine

pytestmark = pytest.mark.anyio


def events(response: httpx.Response) -> list[Any]:
    lines = [line for line in response.text.split("\n\n") if line.startswith("data: ")]
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


async def test_one_prompt_is_answered_with_text_usage_and_the_original_name(ask: Ask) -> None:
    answer = await ask(prompt="感冒了", parameters={"max_tokens": 3})
    assert answer.status_code == 200
    body = answer.json()
    assert body["generated_text"] == "好好好"
    assert body["finish_reason"] == "length"
    assert body["usage"]["completion_tokens"] == 3
    assert body["usage"]["total_tokens"] == body["usage"]["prompt_tokens"] + 3
    assert body["num_output_tokens_cf"] == 3
    assert body["model"] == "fake-model"
    assert body["error"] is None
    assert body["request_id"]


async def test_the_original_body_with_input_and_empty_parameters_is_answered(ask: Ask) -> None:
    body = (await ask(input="感冒了", parameters={})).json()
    assert body["generated_text"]
    assert body["num_output_tokens_cf"] == body["usage"]["completion_tokens"]


async def test_the_prompt_goes_through_the_chat_template(ask: Ask, engine: FakeEngine) -> None:
    await ask(prompt="感冒了")
    assert engine.tokenizer.decode(engine.requests[-1].prompt_ids) == "<s>问：\n感冒了\n答：\n"


async def test_a_raw_prompt_goes_verbatim_with_one_bos(ask: Ask, engine: FakeEngine) -> None:
    await ask(prompt="<s>感冒了", parameters={"raw": True})
    assert engine.tokenizer.decode(engine.requests[-1].prompt_ids) == "<s>感冒了"


async def test_a_list_keeps_its_order_and_survives_a_bad_item(ask: Ask) -> None:
    answer = await ask(prompt=["一", "", "三"], parameters={"max_tokens": 2})
    assert answer.status_code == 200
    results = answer.json()["results"]
    assert [result["index"] for result in results] == [0, 1, 2]
    assert [result["generated_text"] for result in results] == ["好好", None, "好好"]
    assert results[1]["error"]["param"] == "prompt"
    assert set(results[1]) == set(results[0]), "a failed item has every field of an answered one"
    assert len({result["request_id"] for result in results}) == 3
    assert answer.json()["usage"]["completion_tokens"] == 4


async def test_a_stream_of_one_prompt_ends_with_reason_usage_and_the_whole_text(ask: Ask) -> None:
    answer = await ask(prompt="一", parameters={"max_tokens": 3}, stream=True)
    assert answer.headers["content-type"].startswith("text/event-stream")
    *deltas, end = events(answer)
    assert [delta["text"] for delta in deltas] == ["好", "好", "好"]
    assert end["finish_reason"] == "length"
    assert end["usage"]["completion_tokens"] == 3
    assert end["generated_text"] == "好好好"


async def test_a_stream_of_a_list_has_one_event_for_every_item(ask: Ask) -> None:
    results = events(await ask(prompt=["一", "", "三"], stream=True, parameters={"max_tokens": 1}))
    assert sorted(result["index"] for result in results) == [0, 1, 2]
    assert [r["index"] for r in results if r["error"]] == [1]


async def test_several_outputs_and_logprobs_are_returned_when_asked_for(ask: Ask) -> None:
    parameters = {"n": 2, "temperature": 1, "logprobs": 1, "max_tokens": 2}
    for body in (
        (await ask(prompt="一", parameters=parameters)).json(),
        events(await ask(prompt="一", parameters=parameters, stream=True))[-1],
    ):
        assert [output["index"] for output in body["outputs"]] == [0, 1]
        assert body["usage"]["completion_tokens"] == 4
        assert len(body["logprobs"]) == 2
        assert body["logprobs"][0]["token"] == "好"
        assert body["logprobs"][0]["top_logprobs"][0]["logprob"] == -0.5


async def test_what_the_engine_refuses_is_a_400_also_for_a_stream(ask: Ask) -> None:
    parameters = {"bad_words": ["refused by the engine"]}
    for stream in (False, True):
        answer = await ask(prompt="一", parameters=parameters, stream=stream)
        assert answer.status_code == 400
        assert answer.json()["param"] == "parameters.bad_words"


async def test_an_engine_that_dies_is_a_500_which_nobody_repeats_or_an_error_event(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.fail(EngineDiedError("the engine has died"))
    one = await client.post("/generate", json={"prompt": "一"})
    many = await client.post("/generate", json={"prompt": ["一", "二"]})
    stream = await client.post("/generate", json={"prompt": ["一"], "stream": True})
    assert (one.status_code, many.status_code) == (500, 500)
    assert one.json()["error_type"] == "engine_died"
    assert "retry-after" not in one.headers
    assert events(stream)[0]["error"]["error_type"] == "engine_died"


async def test_requests_prompts_and_tokens_are_counted(client: httpx.AsyncClient) -> None:
    await client.post("/generate", json={"prompt": "一", "parameters": {"max_tokens": 3}})
    await client.post("/generate", json={"prompt": "一", "what": 1})
    await client.get("/nowhere")
    metrics = (await client.get("/metrics")).text
    for line in (
        'mergeline_requests_total{outcome="ok",route="/generate"} 1.0',
        'mergeline_requests_total{outcome="client_error",route="/generate"} 1.0',
        'mergeline_requests_total{outcome="client_error",route="other"} 1.0',
        'mergeline_tokens_total{kind="completion"} 3.0',
        "mergeline_requests_in_flight 0.0",
        'mergeline_state{state="ready"} 1.0',
    ):
        assert line in metrics
