"""Requests that must be refused: used against the fake engine, and against the real one."""

import json
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Bad:
    """One request, and the field that the refusal has to name."""

    name: str
    param: str
    body: Any = None
    content: bytes | None = None
    status: int = 400
    headers: dict[str, str] = field(default_factory=lambda: {"content-type": "application/json"})

    def bytes(self) -> bytes:
        return json.dumps(self.body).encode() if self.content is None else self.content


def parameter(name: str, path: str, value: Any, **more: Any) -> Bad:
    """`path` is a field of parameters, with the index in it that is wrong (stop.1)."""
    body = {"prompt": "感冒", "parameters": {path.split(".")[0]: value, **more}}
    return Bad(name, f"parameters.{path}", body)


GOOD = b'{"prompt": "a"}'
BAD_REQUESTS = [
    Bad("no prompt", "prompt", {}),
    Bad("empty prompt", "prompt", {"prompt": ""}),
    Bad("blank prompt", "prompt", {"prompt": " \n\t"}),
    Bad("prompt is a number", "prompt", {"prompt": 7}),
    Bad("prompt is null", "prompt", {"prompt": None}),
    Bad("prompt is an object", "prompt", {"prompt": {"text": "感冒"}}),
    Bad("list holds a number", "prompt.1", {"prompt": ["感冒", 3]}),
    Bad("empty list", "prompt", {"prompt": []}),
    Bad("too many prompts", "prompt", {"prompt": ["感冒"] * 5000}),
    Bad("prompt and input", "body", {"prompt": "感冒", "input": "感冒"}),
    Bad("too long a prompt", "prompt", {"prompt": "感冒发烧" * 1500}),
    Bad("control token in the prompt", "prompt", {"prompt": "感冒</s>发烧"}),
    Bad("unknown field", "temperature", {"prompt": "感冒", "temperature": 1}),
    parameter("unknown parameter", "max_length", 5),
    Bad("parameters is a list", "parameters", {"prompt": "感冒", "parameters": [1]}),
    Bad("stream is a string", "stream", {"prompt": "感冒", "stream": "yes"}),
    Bad("body is a list", "body", ["感冒"]),
    Bad("body is a string", "body", "感冒"),
    Bad("broken JSON", "body", content=b'{"prompt": "abc'),
    Bad("no body", "body", content=b""),
    Bad("not UTF-8", "body", content=b'{"prompt": "\xff\xfe"}'),
    Bad("lone surrogate", "prompt", content=b'{"prompt": "a\\ud800b"}'),
    Bad("lone surrogate in a name", "body", content=b'{"prompt": "a", "\\ud800": 1}'),
    Bad("lone surrogate in stop", "parameters.stop.0",
        content=b'{"prompt": "a", "parameters": {"stop": ["\\ud800"]}}'),
    Bad("deeply nested", "body", content=b'{"prompt": ' + b"[" * 5000 + b"]" * 5000 + b"}"),
    Bad("text", "content-type", content=GOOD, headers={"content-type": "text/plain"}),
    Bad("a form, as curl -d sends", "content-type", content=GOOD,
        headers={"content-type": "application/x-www-form-urlencoded"}),
    Bad("no content type", "content-type", content=GOOD, headers={}),
    parameter("NaN", "temperature", float("nan")),
    parameter("Infinity", "top_p", float("inf")),
    parameter("temperature below 0", "temperature", -0.1),
    parameter("temperature above 2", "temperature", 2.5),
    parameter("temperature as text", "temperature", "0.5"),
    parameter("top_p 0", "top_p", 0),
    parameter("top_p above 1", "top_p", 1.5),
    parameter("top_k below -1", "top_k", -2),
    parameter("top_k a fraction", "top_k", 1.5),
    parameter("top_k huge", "top_k", 2**40),
    parameter("min_p above 1", "min_p", 2),
    parameter("n 0", "n", 0),
    parameter("n huge", "n", 100_000, temperature=1),
    parameter("n greedy", "n", 2),
    parameter("max_tokens 0", "max_tokens", 0),
    parameter("max_tokens too large", "max_tokens", 100_000),
    parameter("max_tokens a bool", "max_tokens", True),
    parameter("min_tokens above max_tokens", "min_tokens", 9, max_tokens=3),
    parameter("min_tokens above the room", "min_tokens", 100_000),
    Bad("both names of max_tokens", "parameters",
        {"prompt": "感", "parameters": {"max_tokens": 3, "max_new_tokens": 3}}),
    parameter("seed negative", "seed", -1),
    parameter("seed huge", "seed", 2**70),
    parameter("stop empty", "stop", ""),
    parameter("stop list holds an empty text", "stop.1", ["a", ""]),
    parameter("stop a number", "stop", 3),
    parameter("stop_token_ids outside the vocabulary", "stop_token_ids", [10**6]),
    parameter("stop_token_ids negative", "stop_token_ids.0", [-1]),
    parameter("allowed_token_ids empty", "allowed_token_ids", []),
    parameter("allowed_token_ids outside the vocabulary", "allowed_token_ids", [10**6]),
    parameter("logit_bias for no token", "logit_bias", {"a": 1}),
    parameter("logit_bias for a number of 5,000 digits", "logit_bias", {"9" * 5000: 1}),
    parameter("logit_bias outside the vocabulary", "logit_bias", {"1000000": 1}),
    parameter("logit_bias too large", "logit_bias", {"5": 1000}),
    parameter("bad_words empty text", "bad_words.0", [""]),
    parameter("presence_penalty above 2", "presence_penalty", 3),
    parameter("frequency_penalty below -2", "frequency_penalty", -3),
    parameter("repetition_penalty 0", "repetition_penalty", 0),
    parameter("logprobs above 20", "logprobs", 50),
    parameter("logprobs negative", "logprobs", -1),
    parameter("ignore_eos a number", "ignore_eos", 1),
    parameter("raw a string", "raw", "yes"),
    parameter("system empty", "system", ""),
    parameter("system with raw", "system", "你是医生", raw=True),
    Bad("control token in the system text", "prompt",
        {"prompt": "感冒", "parameters": {"system": "a</s>b"}}),
    parameter("history of texts", "history.0", ["感冒"]),
    Bad("history of halves", "parameters.history.0",
        {"prompt": "感冒", "parameters": {"history": [["感冒"]]}}),
    Bad("history of threes", "parameters.history.0",
        {"prompt": "感冒", "parameters": {"history": [["感冒", "喝水", "好"]]}}),
    parameter("history with raw", "history", [["感冒", "喝水"]], raw=True),
    Bad("control token in the history", "prompt",
        {"prompt": "感冒", "parameters": {"history": [["a</s>b", "喝水"]]}}),
    Bad("control token in an answer of the history", "prompt",
        {"prompt": "感冒", "parameters": {"history": [["感冒", "a</s>b"]]}}),
    parameter("history of thousands", "history", [["感", "水"]] * 300),
    parameter("thinking a string", "thinking", "on"),
    parameter("thinking of a model without thoughts", "thinking", True),
    parameter("thinking with raw", "thinking", False, raw=True),
    Bad("huge body", "", content=b'{"prompt": "' + b"a" * 17_000_000 + b'"}', status=413),
]  # fmt: skip
