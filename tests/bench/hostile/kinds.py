"""Hostile and unlucky traffic, a kind each; all of it made before it is sent."""

import json
import multiprocessing
import os
import random
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from typing import Any

Attack = Callable[[int], None]
"""Sends once to a port, and waits for the answer."""
VOCABULARY = 5600
LONG = "感冒发烧咳嗽三天了，吃什么药比较好，要去医院吗？" * 200_000
ANSWERED_WITHIN_S = 60
_numbers = count()


def kinds(model: str) -> dict[str, Attack]:
    """By name."""
    ask = {"prompt": "感冒", "parameters": {"max_tokens": 8}}
    words = ["词" * 2700 + str(i) for i in range(128)]
    bias = {str(i): 1.0 for i in range(VOCABULARY)}
    deep = b'{"prompt": ' + b"[" * 500_000 + b"]" * 500_000 + b"}"
    numbers = b'{"model": "%s", "prompt": [%s1]}' % (model.encode(), b"1," * 7_000_000)
    v1 = {"model": model, "prompt": "感冒", "max_tokens": 8}
    return {
        **_long_answers(v1),
        **_schemas(v1),
        **_many_objects(model),
        "a prompt of 14 MB": _post("/generate", {"prompt": LONG}),
        "a prompt of 14 MB, /v1": _post("/v1/completions", {**v1, "prompt": LONG}),
        "/tokenize of 14 MB": _post("/tokenize", {"prompt": LONG}),
        "a list of 780 prompts, too long each": _post("/generate", {"prompt": [LONG[:6000]] * 780}),
        "seven million numbers": _send("/v1/completions", numbers),
        "half a million brackets": _send("/generate", deep),
        "bad_words of 1 MB": _post("/generate", _with(ask, bad_words=words)),
        "logit_bias of all tokens": _post("/generate", _with(ask, logit_bias=bias)),
        "a costly regex": _each(
            lambda i: _with(ask, structured_outputs={"regex": f"(a{{{i}}}){{900}}"})
        ),
        "an ambiguous grammar": _each(
            lambda i: _with(ask, structured_outputs={"grammar": AMBIGUOUS + f"// {i}\n"})
        ),
        "a deep schema": _post("/generate", _by(ask, json=_nested(150))),
        "n of 100,000, /v1": _post("/v1/completions", {**v1, "n": 100_000}),
        "a million ids of stop strings": _post("/v1/completions", {**v1, "stop": ["x"] * 400_000}),
        "a request id of 1 MB, /v1": _post("/v1/completions", {**v1, "request_id": "x" * 2**20}),
        "an answer that nobody reads": _unread,
        "a body that never ends": _unfinished,
        "two hundred connections": _connections,
    }


def _long_answers(v1: dict[str, Any]) -> dict[str, Attack]:
    """As many log-probabilities as one answer may have."""
    many = {"max_tokens": 1500, "ignore_eos": True, "logprobs": 20}
    chat = {
        "model": v1["model"],
        "messages": [{"role": "user", "content": v1["prompt"]}],
        "logprobs": True,
        "top_logprobs": 20,
        "ignore_eos": True,
    }
    prompt = {**v1, "prompt": [100] * 190, "max_tokens": 1, "prompt_logprobs": 20}
    return {
        "20 log-probabilities a token": _post("/generate", {"prompt": "感冒", "parameters": many}),
        "20 log-probabilities a token, /v1": _post("/v1/chat/completions", chat),
        "20 log-probabilities for a prompt's tokens, /v1": _post("/v1/completions", prompt),
    }


def _many_objects(model: str) -> dict[str, Attack]:
    """As many as are taken."""
    message = {"role": "user", "content": "a"}
    bodies: dict[str, dict[str, Any]] = {
        "responses": {"input": [{"type": "x"}] * 500},
        "chat/completions": {"messages": [message] * 2000},
        "chat/completions/batch": {"messages": [[message]] * 128, "max_tokens": 1},
    }
    return {
        f"a list of many, /v1/{path}": _post(f"/v1/{path}", {"model": model, **body})
        for path, body in bodies.items()
    }


def _schemas(v1: dict[str, Any]) -> dict[str, Attack]:
    return {
        f"a schema of {fields} fields for {prompts} prompts, /v1": _post(
            "/v1/completions",
            {**v1, "prompt": ["感冒"] * prompts, "structured_outputs": {"json": _wide(fields)}},
        )
        for fields, prompts in ((50_000, 500), (150, 20))
    }


@contextmanager
def attacked(port: int, attacks: Sequence[Attack]) -> Iterator[None]:
    """A process of low priority sends these meanwhile, in any order and without a pause."""
    process = multiprocessing.get_context("fork").Process(target=_keep_on, args=(port, attacks))
    process.start()
    time.sleep(0.5)
    try:
        yield
    finally:
        process.kill()
        process.join()


def _keep_on(port: int, attacks: Sequence[Attack]) -> None:
    os.nice(19)  # its own work is on another machine in life
    while True:
        with suppress(OSError):
            random.choice(attacks)(port)


AMBIGUOUS = '%llguidance {}\nstart: s\ns: s s s | s s | "a" | "b" |\n'


def _with(body: dict[str, Any], **parameters: Any) -> dict[str, Any]:
    return {**body, "parameters": {**body["parameters"], **parameters}}


def _by(body: dict[str, Any], **constraint: Any) -> dict[str, Any]:
    return _with(body, structured_outputs=constraint)


def _nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "integer"}
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return schema


def _wide(fields: int) -> dict[str, Any]:
    each = {"type": "string", "description": "x" * 30}
    return {"type": "object", "properties": {f"field {i}": each for i in range(fields)}}


def _post(path: str, body: dict[str, Any]) -> Attack:
    return _send(path, json.dumps(body, ensure_ascii=False).encode())


def _each(make: Callable[[int], dict[str, Any]]) -> Attack:
    """Another body each time, so that nothing that was learnt of the last one helps."""

    def attack(port: int) -> None:
        _post("/generate", make(500 + next(_numbers)))(port)

    return attack


def _send(path: str, content: bytes) -> Attack:
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    data = f"{head}Content-Length: {len(content)}\r\nConnection: close\r\n\r\n".encode() + content

    def attack(port: int) -> None:
        with socket.create_connection(("127.0.0.1", port), ANSWERED_WITHIN_S) as connection:
            try:
                connection.sendall(data)
                while connection.recv(2**16):
                    pass
            except OSError:
                pass

    return attack


def _unread(port: int) -> None:
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", port))
        connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 15)
        time.sleep(1)


def _unfinished(port: int) -> None:
    head = b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", port), ANSWERED_WITHIN_S) as connection:
        connection.sendall(head + b"Content-Length: 9000000\r\n\r\n" + b" " * 8_000_000)
        time.sleep(1)


def _connections(port: int) -> None:
    opened = [socket.create_connection(("127.0.0.1", port), 10) for _ in range(200)]
    time.sleep(1)
    for each in opened:
        each.close()
