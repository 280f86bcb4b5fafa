"""A system text, a history and thoughts in POST /generate, against a fake engine."""

import json
from dataclasses import replace
from typing import Any

import httpx
import pytest

from service.engine.protocol import Completion, GenerationRequest
from service.settings import Settings
from tests.families import family_tokenizer
from tests.service.conftest import ready
from tests.service.fake import FakeEngine
from tests.thinking import thinking_tokenizer

pytestmark = pytest.mark.anyio
AROUND: dict[str, Any] = {
    "system": "你是医生",
    "history": [["感冒怎么办？答：", "多喝水"], ["还有呢", "多休息"]],
}
MESSAGES = [
    {"role": "system", "content": "你是医生"},
    {"role": "user", "content": "感冒怎么办？答："},
    {"role": "assistant", "content": "多喝水"},
    {"role": "user", "content": "还有呢"},
    {"role": "assistant", "content": "多休息"},
    {"role": "user", "content": "谢谢"},
]


class Thinker(FakeEngine):
    """Writes a text, one character a step of a stream; the tokens of the text are its tokens."""

    written = ""

    def _output(self, index: int, size: int, last: bool, request: GenerationRequest) -> Completion:
        made = super()._output(index, size, last, request)
        place = getattr(self, "place", 0)
        text = self.written[place : place + 1] if request.stream else self.written
        self.place = 0 if last else place + 1
        ids = self.tokenizer.encode(text, add_special_tokens=False)
        reason = made.finish_reason and ("length" if self.written.endswith("…") else "stop")
        return replace(made, text=text, token_ids=ids, token_count=len(ids), finish_reason=reason)


async def post(
    tokenizer: Any, settings: Settings, path: str = "/generate", **body: Any
) -> tuple[httpx.Response, FakeEngine]:
    engine = FakeEngine(tokenizer)
    async with ready(engine, settings) as client:
        return await client.post(path, json=body), engine


async def generate(tokenizer: Any, settings: Settings, written: str, **body: Any) -> httpx.Response:
    engine = Thinker(tokenizer)
    engine.written = written
    parameters = {"max_tokens": len(written), **body.pop("parameters", {})}
    async with ready(engine, settings) as client:
        answer = await client.post(
            "/generate", json={"prompt": "感冒", "parameters": parameters, **body}
        )
    assert answer.status_code == 200, answer.text
    return answer


@pytest.mark.parametrize("style", ["llama", "qwen3", "llama3", "glm4"])
async def test_what_is_sent_is_what_the_template_makes_of_the_conversation(
    style: str, tokenizer: Any, settings: Settings
) -> None:
    used = tokenizer if style == "llama" else family_tokenizer(style)
    expected = used.apply_chat_template(MESSAGES, add_generation_prompt=True, return_dict=False)
    answer, engine = await post(used, settings, prompt="谢谢", parameters=AROUND)
    assert answer.status_code == 200
    assert engine.requests[-1].prompt_ids == expected
    answer, _ = await post(used, settings, "/tokenize", prompt="谢谢", **AROUND)
    assert answer.json()["tokens"] == expected


PARTS = "{% for m in messages %}{% for part in m.content %}{{ part.text }}{% endfor %}{% endfor %}"
"""As those of models for images: a text is no list of parts."""
LEFT_OUT = "{{ bos_token }}{{ messages[-1].content }}"
REFUSALS: list[tuple[str, str | None, dict[str, Any], str]] = [
    (
        "llama3",
        "{{ raise_exception('no') if messages | length > 1 }}{{ messages[0].content }}",
        {"system": "你是医生"},
        "parameters.system",
    ),
    ("llama3", PARTS, {}, "prompt"),
    ("llama3", LEFT_OUT, {"system": "你是医生"}, "parameters.system"),
    ("llama3", LEFT_OUT, {"history": [["a", "b"]]}, "parameters.history"),
    ("llama3", None, {"thinking": True}, "parameters.thinking"),
    ("llama3", "", {"system": "你是医生"}, "parameters"),
    ("llama3", "", {"history": [["a", "b"]]}, "parameters"),
]


@pytest.mark.parametrize("path", ["/generate", "/tokenize"])
@pytest.mark.parametrize(("style", "template", "around", "param"), REFUSALS, ids=str)
async def test_what_a_template_cannot_do_is_refused(
    *,
    style: str,
    template: str | None,
    around: dict[str, Any],
    param: str,
    path: str,
    settings: Settings,
) -> None:
    tokenizer = family_tokenizer(style)
    if template is not None:
        tokenizer.chat_template = template or None
    where = {"parameters": around} if path == "/generate" else around
    answer, engine = await post(tokenizer, settings, path, prompt="感冒", **where)
    assert answer.status_code == 400, answer.text
    assert answer.json()["param"] == param
    assert len(engine.requests) == 1  # the one that the service starts with


@pytest.mark.parametrize("thinking", [None, True, False])
async def test_thinking_switches_the_template(thinking: bool | None, settings: Settings) -> None:
    tokenizer = thinking_tokenizer("qwen3")
    switch = {} if thinking is None else {"enable_thinking": thinking}
    expected = tokenizer.apply_chat_template(
        [MESSAGES[-1]], add_generation_prompt=True, return_dict=False, **switch
    )
    _, engine = await post(tokenizer, settings, prompt="谢谢", parameters={"thinking": thinking})
    assert engine.requests[-1].prompt_ids == expected


async def test_a_thought_stands_apart_and_is_counted(settings: Settings) -> None:
    tokenizer = thinking_tokenizer("r1-distill")
    body = (await generate(tokenizer, settings, "病人\n</think>\n\n多喝水")).json()
    assert (body["generated_text"], body["reasoning"]) == ("多喝水", "病人")
    thought = len(tokenizer.encode("病人\n</think>", add_special_tokens=False))
    assert body["usage"]["reasoning_tokens"] == thought
    assert body["usage"]["completion_tokens"] > thought


async def test_each_output_has_its_own_thought(settings: Settings) -> None:
    tokenizer = thinking_tokenizer("r1-distill")
    asked = {"n": 2, "temperature": 1}
    answer = await generate(tokenizer, settings, "病人</think>好", parameters=asked)
    outputs = answer.json()["outputs"]
    assert [(each["generated_text"], each["reasoning"]) for each in outputs] == [("好", "病人")] * 2


async def test_a_list_counts_thoughts_together(settings: Settings) -> None:
    tokenizer = thinking_tokenizer("r1-distill")
    body = (await generate(tokenizer, settings, "a</think>好", prompt=["感冒", "头痛"])).json()
    each = [result["usage"]["reasoning_tokens"] for result in body["results"]]
    assert body["usage"]["reasoning_tokens"] == sum(each) > 0


async def test_a_stream_tells_thought_from_answer(settings: Settings) -> None:
    tokenizer = thinking_tokenizer("qwen3")
    written = "<think>\n病人\n</think>\n\n多喝水"
    text = (await generate(tokenizer, settings, written, stream=True)).text
    *deltas, end = (json.loads(line[6:]) for line in text.split("\n") if line.startswith("data: {"))
    assert "".join(delta["text"] for delta in deltas) == end["generated_text"] == "多喝水"
    assert "".join(delta.get("reasoning", "") for delta in deltas) == end["reasoning"] == "病人"
    assert end["usage"]["reasoning_tokens"] > 0


@pytest.mark.parametrize("written", ["病人咳嗽…", "病人</thi…"])
async def test_a_thought_that_is_cut_off_is_no_answer(written: str, settings: Settings) -> None:
    tokenizer = thinking_tokenizer("r1-distill")
    body = (await generate(tokenizer, settings, written)).json()
    assert (body["generated_text"], body["reasoning"]) == ("", written)
    assert body["finish_reason"] == "length"
    assert body["usage"]["reasoning_tokens"] == body["usage"]["completion_tokens"]


async def test_a_raw_prompt_has_its_text_as_it_is_written(settings: Settings) -> None:
    tokenizer = thinking_tokenizer("r1-distill")
    written = "病人</think>好"
    body = (await generate(tokenizer, settings, written, parameters={"raw": True})).json()
    assert body["generated_text"] == written
    assert "reasoning" not in body


def switch(name: str) -> dict[str, Any]:
    return {"on": {name: True}, "off": {name: False}}


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("qwen3", {"switch": switch("enable_thinking"), "default": True}),
        ("deepseek-v3.1", {"switch": switch("thinking"), "default": False}),
        ("r1-distill", {"switch": None, "default": True}),
        ("qwen3-2507-instruct", None),
    ],
)
async def test_info_tells_how_a_model_thinks(
    name: str, told: dict[str, Any] | None, settings: Settings
) -> None:
    async with ready(FakeEngine(thinking_tokenizer(name)), settings) as client:
        thinking = (await client.get("/info")).json()["thinking"]
    assert thinking == (told and {**told, "marks": ["<think>", "</think>"]})


async def test_a_constraint_needs_no_template(settings: Settings) -> None:
    tokenizer = family_tokenizer("llama3")
    tokenizer.chat_template = None
    asked = {"structured_outputs": {"choice": ["甲"]}, "max_tokens": 3}
    answer, _ = await post(tokenizer, settings, prompt="感冒", parameters=asked)
    assert answer.status_code == 200


async def test_a_thought_is_opened_once(settings: Settings) -> None:
    """Where the template itself closes one, for what the system text says, none is opened."""
    tokenizer = thinking_tokenizer("qwen3")
    tokenizer.chat_template += (
        "{% if messages[0].content == '/no_think' and add_generation_prompt %}"
        "{{ '<think>\n\n</think>\n' }}{% endif %}"
    )
    asked = {"structured_outputs": {"choice": ["甲"]}, "max_tokens": 3}
    closed = asked | {"system": "/no_think"}
    for parameters, end in ((asked, "<think>\n"), (closed, "</think>\n")):
        _, engine = await post(tokenizer, settings, prompt="感冒", parameters=parameters)
        request = engine.requests[-1]
        assert tokenizer.decode(request.prompt_ids).endswith(end)
        assert request.opens_thought == (end == "<think>\n")
        assert tokenizer.decode(request.prompt_ids).count("<think>") == 1


async def test_what_stands_around_many_prompts_is_bounded(settings: Settings) -> None:
    tokenizer = family_tokenizer("qwen3")
    settings.max_body_bytes = 2**20
    asked = {"history": [["问" * 200, "答"]] * 250}
    answer, _ = await post(tokenizer, settings, prompt=["a"] * 8, parameters=asked)
    assert answer.status_code == 400
    assert "send fewer prompts" in answer.json()["error"]


async def test_tokenize_has_the_deployment_s_defaults(settings: Settings) -> None:
    tokenizer = family_tokenizer("qwen3")
    settings.default_parameters = {"system": "你是医生"}
    answer, engine = await post(tokenizer, settings, "/tokenize", prompt="感冒")
    generated, engine = await post(tokenizer, settings, prompt="感冒")
    assert answer.json()["tokens"] == engine.requests[-1].prompt_ids
    assert generated.status_code == 200
    raw, engine = await post(tokenizer, settings, prompt="感冒", parameters={"raw": True})
    assert raw.status_code == 200
    assert tokenizer.decode(engine.requests[-1].prompt_ids) == "感冒"
