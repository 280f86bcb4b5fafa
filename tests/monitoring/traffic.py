"""Requests of every kind that the metrics tell apart."""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

LONG: dict[str, Any] = {"max_tokens": 300, "ignore_eos": True}
# more than one block of the engine's cache, or its second time would find nothing there
PROMPT = "咽炎不管它会怎样，" * 60
# what `bounds` of the server make of the requests below
STATUSES = {200, 400, 404, 429, 504}


def send_for(url: str, seconds: float) -> None:
    """Every kind again and again: rates need counters that grow while they are scraped."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        send(url)


def send(url: str) -> None:
    """Each kind once; checks that each is answered as it was meant to be."""
    with httpx.Client(base_url=url, timeout=60) as http, ThreadPoolExecutor(4) as pool:

        def generate(prompt: str | list[str], **body: Any) -> int:
            return http.post("/generate", json={"prompt": prompt, **body}).status_code

        statuses = {
            generate(PROMPT, parameters={"max_tokens": 4}),
            generate(PROMPT, parameters={"max_tokens": 4}),
            generate("咽炎", stream=True, parameters={"max_tokens": 16}),
            generate("咽炎", parameters={"no such": 1}),
            generate(
                "咽炎", parameters={"max_tokens": 3000, "ignore_eos": True, "timeout_s": 0.05}
            ),
            http.get("/nothing").status_code,
            http.post(
                "/v1/completions", json={"model": "model", "prompt": "咽炎", "max_tokens": 4}
            ).status_code,
        }
        crowd = [pool.submit(generate, ["咽炎"] * 3, parameters=LONG) for _ in range(4)]
        statuses |= {one.result() for one in crowd}
    assert statuses == STATUSES
