"""What a test waits for before it goes on."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from tests.server import ServerProcess

IDLE = (
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
    "vllm:kv_cache_usage_perc",
    "mergeline_requests_in_flight",
    "mergeline_prompts_in_flight",
)
STEPS = "vllm:iteration_tokens_total_count"
# of a busy machine, between a client's end and the engine's; an answer takes thousands
STEPS_TO_GIVE_UP = 1000


async def until(condition: Callable[[], Awaitable[bool]], limit_s: float = 60) -> None:
    async with asyncio.timeout(limit_s):
        while not await condition():  # noqa: ASYNC110 - it has to be asked over HTTP
            await asyncio.sleep(0.02)


async def reaches(server: ServerProcess, metric: str, least: float) -> None:
    """Wait until `metric` is at `least`; the event loop goes on meanwhile."""

    async def reached() -> bool:
        return await asyncio.to_thread(server.metric, metric) >= least

    await until(reached)


def wait_metric(server: ServerProcess, metric: str, least: float, limit_s: float = 120) -> None:
    """Wait until `metric` is at `least`."""
    deadline = time.monotonic() + limit_s
    while (value := server.metric(metric)) < least:
        assert time.monotonic() < deadline, f"after {limit_s} s {metric} is {value}, not {least}"
        time.sleep(0.02)


def wait_given_up(server: ServerProcess) -> None:
    """Wait until nothing is left of requests for 3000 tokens, which were not computed meanwhile.

    Told by the engine's steps, since seconds would tell how fast the machine is.
    """
    begun = server.metric(STEPS)
    wait_idle(server)
    steps = server.metric(STEPS) - begun
    assert steps < STEPS_TO_GIVE_UP, f"the engine went on for {steps:.0f} steps"


def wait_idle(server: ServerProcess, limit_s: float = 120) -> None:
    """Wait until no request is left in the service or in its engine."""
    deadline = time.monotonic() + limit_s
    while busy := {name: value for name in IDLE if (value := server.metric(name))}:
        assert time.monotonic() < deadline, f"after {limit_s} s: {busy}"
        time.sleep(0.1)


def wait_log(server: ServerProcess, text: str, limit_s: float = 60) -> str:
    """The log once it holds `text`: a request's line comes after its answer's last byte."""
    deadline = time.monotonic() + limit_s
    while text not in (log := server.log.read_text()):
        assert time.monotonic() < deadline, f"after {limit_s} s no {text} in the log"
        time.sleep(0.05)
    return log
