"""What programs written for OpenAI's API do, with OpenAI's own client."""

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.e2e.conftest import KEYS
from tests.server import ServerProcess

MESSAGES: Any = [{"role": "user", "content": "感冒了怎么办？"}]
RENDERED = "问：\n感冒了怎么办？\n答：\n"
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 5}, "age": {"enum": [30, 40]}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


def talking_to(server: ServerProcess, key: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=server.url + "/v1", api_key=key, max_retries=0, timeout=60)


@pytest.fixture
def client(keyed: ServerProcess) -> Iterator[openai.OpenAI]:
    with talking_to(keyed, KEYS["client"]) as ready:
        yield ready


def test_the_base_and_its_adapters_are_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["base", "medical", "noise"]


def test_a_chat_is_rendered_and_answered_as_generate_does(
    client: openai.OpenAI, keyed: ServerProcess
) -> None:
    chat = client.chat.completions.create(
        model="base", messages=MESSAGES, max_tokens=8, temperature=0
    )
    text = client.completions.create(model="base", prompt=RENDERED, max_tokens=8, temperature=0)
    body = {"prompt": MESSAGES[0]["content"], "parameters": {"max_tokens": 8}}
    ours = client.post("../generate", body=body, cast_to=dict[str, Any])
    assert chat.choices[0].message.content == text.choices[0].text == ours["generated_text"]
    reasons = [chat.choices[0].finish_reason, text.choices[0].finish_reason]
    assert reasons == [ours["finish_reason"]] * 2
    assert chat.usage
    assert ours["usage"] == {
        name: getattr(chat.usage, name)
        for name in ("prompt_tokens", "completion_tokens", "total_tokens")
    }


def test_streams_add_up_and_tell_usage(client: openai.OpenAI) -> None:
    asked: Any = {"model": "medical", "max_tokens": 8, "temperature": 0}
    streamed: Any = {**asked, "stream": True, "stream_options": {"include_usage": True}}
    chat = client.chat.completions.create(messages=MESSAGES, **asked)
    chunks = list(client.chat.completions.create(messages=MESSAGES, **streamed))
    deltas = [c.choices[0].delta.content or "" for c in chunks if c.choices]
    assert "".join(deltas) == chat.choices[0].message.content
    assert chunks[-1].usage == chat.usage
    whole = client.completions.create(prompt=RENDERED, **asked)
    parts = list(client.completions.create(prompt=RENDERED, **streamed))
    assert "".join(part.choices[0].text for part in parts if part.choices) == whole.choices[0].text
    assert parts[-1].usage == whole.usage


def test_an_adapter_is_asked_for_as_a_model(client: openai.OpenAI) -> None:
    count = {"max_tokens": 24, "min_tokens": 24}  # enough that no two models say the same
    answers = {
        model: client.completions.create(
            model=model, prompt=RENDERED, temperature=0, extra_body=count
        )
        .choices[0]
        .text
        for model in ("base", "medical", "noise")
    }
    assert len(set(answers.values())) == 3
    for adapter in ("medical", "noise"):
        body = {"prompt": MESSAGES[0]["content"], "parameters": {**count, "adapter": adapter}}
        ours = client.post("../generate", body=body, cast_to=dict[str, Any])
        assert ours["generated_text"] == answers[adapter]


def test_logprobs(client: openai.OpenAI) -> None:
    chat = client.chat.completions.create(
        model="base", messages=MESSAGES, max_tokens=3, temperature=0, logprobs=True, top_logprobs=2,
        extra_body={"ignore_eos": True},
    )  # fmt: skip
    told = chat.choices[0].logprobs
    assert told
    assert told.content
    assert [len(position.top_logprobs) for position in told.content] == [2, 2, 2]
    assert all(p.logprob == p.top_logprobs[0].logprob <= 0 for p in told.content)


def test_structured_outputs_by_both_of_their_names(client: openai.OpenAI) -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON}}
    chat = client.chat.completions.create(
        model="base", messages=MESSAGES, max_tokens=60, temperature=0, response_format=form
    )
    person = json.loads(chat.choices[0].message.content or "")
    assert set(person) == {"name", "age"}
    assert person["age"] in (30, 40)
    text = client.completions.create(
        model="base", prompt=RENDERED, max_tokens=20, temperature=0,
        extra_body={"structured_outputs": {"choice": ["阴性", "阳性"]}},
    )  # fmt: skip
    assert text.choices[0].text in ("阴性", "阳性")


@pytest.mark.parametrize(
    "constraint",
    [
        {"json": {"type": "array", "minItems": 10**9}},
        {"grammar": 'start: %json {"type": "array", "minItems": 1000000000}'},
        {"regex": "a{1000000}"},
        {"regex": "("},
    ],
)
def test_what_would_take_all_memory_or_cannot_be_followed_is_a_400_here_too(
    client: openai.OpenAI, constraint: dict[str, Any]
) -> None:
    with pytest.raises(openai.BadRequestError):
        client.completions.create(
            model="base", prompt="a", max_tokens=9, extra_body={"structured_outputs": constraint}
        )


def test_refusals_are_the_clients_own_exceptions(
    client: openai.OpenAI, keyed: ServerProcess
) -> None:
    with pytest.raises(openai.NotFoundError, match="nobody"):
        client.chat.completions.create(model="nobody", messages=MESSAGES)
    with pytest.raises(openai.BadRequestError):
        client.completions.create(model="base", prompt="a", temperature=-1)
    with talking_to(keyed, "wrong") as stranger, pytest.raises(openai.AuthenticationError) as told:
        stranger.chat.completions.create(model="base", messages=MESSAGES)
    assert told.value.type == "unauthorized"
    assert "API key" in told.value.message


def test_a_request_id_goes_in_and_out(client: openai.OpenAI) -> None:
    answer = client.completions.with_raw_response.create(
        model="base", prompt="a", max_tokens=1, extra_headers={"X-Request-Id": "mine-1"}
    )
    assert answer.headers["x-request-id"] == "mine-1"
    assert "mine-1" in answer.parse().id
