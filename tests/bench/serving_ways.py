"""The ways to have a list of prompts answered that tests.bench.serving compares."""

import asyncio
import contextlib
import io
import json
import os
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import httpx

from client.prediction.job import Job, predict
from tests.bench.serving_processes import Server, Worker

TOKENS = 32


class Prompts:
    """Distinct prompts without end, so that no round finds another's in the prefix cache."""

    def __init__(self, model: Path, data: Path) -> None:
        from transformers import AutoTokenizer

        self._tokenizer = AutoTokenizer.from_pretrained(model)
        lines = data.read_text(encoding="utf-8").splitlines()
        self._texts = [json.loads(line)["input"] for line in lines]
        self._count = 0

    def take(self, count: int) -> list[str]:
        """The next prompts, numbered from the front."""
        first, self._count = self._count, self._count + count
        size = len(self._texts)
        return [f"{n}. {self._texts[n % size]}" for n in range(first, self._count)]

    def rendered(self, prompts: Sequence[str]) -> list[str]:
        """As the service renders them, for the ways that take no chat template."""
        chats = [[{"role": "user", "content": prompt}] for prompt in prompts]
        texts: list[str] = self._tokenizer.apply_chat_template(
            chats, tokenize=False, add_generation_prompt=True
        )
        return texts


class Way(Protocol):
    """How to have prompts answered: 32 tokens each, greedily."""

    name: str
    share: int
    """1 of how many prompts is asked: the speed of the slow ways is extrapolated from fewer."""

    def answer(self, prompts: Sequence[str], rendered: Sequence[str]) -> list[int]:
        """Have all answered; the counts of prompt tokens and of completion tokens."""


def speed(way: Way, prompts: Prompts, count: int) -> float:
    """Prompts a second; a slow way is asked fewer, since its speed does not depend on how many."""
    count //= way.share
    texts = prompts.take(count)
    rendered = prompts.rendered(texts)
    started = time.monotonic()
    _, answered = way.answer(texts, rendered)
    seconds = time.monotonic() - started
    assert answered == count * TOKENS, f"{way.name}: {answered} tokens for {count} prompts"
    return count / seconds


class Ours:
    """Our client as `make predict` runs it, at its default pace, against our service."""

    name, share = "ours", 1

    def __init__(self, server: Server, folder: Path) -> None:
        self._job = Job(
            urls=(server.url,),
            input=folder / "prompts.json",
            output=folder / "answers.json",
            parameters={"max_tokens": TOKENS, "ignore_eos": True, "temperature": 0},
            restart=True,
        )

    def answer(self, prompts: Sequence[str], rendered: Sequence[str]) -> list[int]:
        rows = (json.dumps({"input": prompt, "target": ""}) for prompt in prompts)
        self._job.input.write_text("\n".join(rows))
        with contextlib.redirect_stdout(io.StringIO()):
            missing = predict(self._job)
        assert not missing, missing
        lines = self._job.journal.read_bytes().splitlines()[1:]
        usages = [json.loads(line)["entry"]["usage"] for line in lines]
        return [sum(u[kind] for u in usages) for kind in ("prompt_tokens", "completion_tokens")]


class Completions:
    """POST /v1/completions of vLLM's server, with httpx."""

    share = 1

    def __init__(self, server: Server, batch: int, connections: int, model: str = "model") -> None:
        one = "one prompt" if batch == 1 else f"{batch} prompts"
        self.name = f"vLLM's server, {one} a request, {connections} connections"
        self._url, self._batch, self._connections = server.url, batch, connections
        self._model = model

    def answer(self, prompts: Sequence[str], rendered: Sequence[str]) -> list[int]:
        return asyncio.run(self._ask(rendered))

    async def _ask(self, prompts: Sequence[str]) -> list[int]:
        step = self._batch
        lists = deque(prompts[first : first + step] for first in range(0, len(prompts), step))
        usages: list[dict[str, int]] = []
        limits = httpx.Limits(max_connections=self._connections)
        async with httpx.AsyncClient(base_url=self._url, limits=limits, timeout=600) as http:

            async def work() -> None:
                while lists:
                    some = lists.popleft()
                    body = completion_body(some[0] if step == 1 else list(some), self._model)
                    try:
                        answer = await http.post("/v1/completions", json=body)
                    except (httpx.ReadError, httpx.RemoteProtocolError):
                        # busy for five seconds, it takes the connection for an idle one
                        lists.append(some)
                        continue
                    usages.append(answer.raise_for_status().json()["usage"])

            await asyncio.gather(*(work() for _ in range(self._connections)))
        return [sum(u[kind] for u in usages) for kind in ("prompt_tokens", "completion_tokens")]


def completion_body(prompt: str | list[str], model: str = "model") -> dict[str, Any]:
    """The template has written BOS already."""
    greedy = {"max_tokens": TOKENS, "ignore_eos": True, "temperature": 0}
    return {"model": model, "prompt": prompt, "add_special_tokens": False, **greedy}


class Offline:
    """vLLM's LLM.generate with all prompts in one call."""

    name, share = "offline LLM.generate", 1

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def answer(self, prompts: Sequence[str], rendered: Sequence[str]) -> list[int]:
        return self._worker.ask(rendered, TOKENS)


class Generate:
    """transformers; `threads` 0 is what torch takes by itself, as in the original client."""

    def __init__(self, worker: Worker, batch: int, share: int, threads: int) -> None:
        how = "one by one" if batch == 1 else f"padded batches of {batch}"
        self.name = f"transformers generate, {how}{', one thread' if threads else ''}"
        self.share, self._worker, self._batch = share, worker, batch
        self._threads = threads or os.cpu_count() or 1

    def answer(self, prompts: Sequence[str], rendered: Sequence[str]) -> list[int]:
        return self._worker.ask(rendered, TOKENS, batch=self._batch, threads=self._threads)
