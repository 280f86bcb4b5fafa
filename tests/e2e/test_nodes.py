"""A model shared by two nodes: the answers of one, and the second ends with the first."""

import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.e2e.waiting import wait_metric
from tests.server import ServerProcess

PROMPTS = ["感冒了怎么办？", "头痛三天，咳嗽。"]
ENDS_WITHIN_S = 90  # on a busy machine; without being told, never
LONG = {"max_tokens": 1000, "ignore_eos": True}
SHARED: dict[str, Any] = {
    "tensor_parallel_size": 2, "nodes": 2, "leader_address": "127.0.0.1", "cpu_kvcache_gib": 1,
}  # fmt: skip


def test_two_nodes_answer_as_one_and_end_when_all_is_answered(
    server: ServerProcess, demo: Path, logs: Path
) -> None:
    asked = {"max_tokens": 24, "ignore_eos": True}
    expected = server.generated_ids(PROMPTS, **asked)
    first = ServerProcess(demo / "model", logs / "node-0.log", **SHARED)
    second = ServerProcess(
        demo / "model", logs / "node-1.log", port=first.port, node_rank=1, **SHARED
    )
    try:
        assert first.wait_ready().generated_ids(PROMPTS, **asked) == expected
        engine = second.descendants()
        with ThreadPoolExecutor() as pool:
            running = pool.submit(first.generated_ids, PROMPTS[:1], **LONG)
            wait_metric(first, "mergeline_requests_in_flight", 1)
            for each in (second, first):  # as when the group is deleted
                each.process.send_signal(signal.SIGTERM)
            assert len(running.result()[0]) == LONG["max_tokens"]
        assert first.process.wait(ENDS_WITHIN_S) == 0
        assert second.process.wait(ENDS_WITHIN_S) == 0
        second.wait_gone(engine)
    finally:
        first.stop()
        second.stop()


def test_a_node_whose_first_never_comes_ends_when_told_to(demo: Path, logs: Path) -> None:
    alone = ServerProcess(demo / "model", logs / "alone.log", node_rank=1, **SHARED)
    while not (workers := alone.descendants()):
        time.sleep(0.1)
    started = time.monotonic()
    assert alone.stop() == 0
    assert time.monotonic() - started < ENDS_WITHIN_S
    alone.wait_gone(workers)
