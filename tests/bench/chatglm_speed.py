"""ChatGLM-6B: answers a second of the service against the transformers model's generate.

    python -m tests.bench.chatglm_speed

A random model (15M parameters, fp32) answers the same prompts with the same number of tokens, each
way three times in turn; the medians count: the service with all prompts in one request, generate
with one prompt after the other, and generate with batches of eight, padded on the left.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from tests.chatglm import converted_base, random_chatglm
from tests.server import ServerProcess, serving

PROMPTS = [f"请从下面的文本中抽取实体：病人咳嗽{'，高血压' * (n % 8)}。{n}" for n in range(48)]
TOKENS, ROUNDS, BATCH = 32, 3, 8
SIZES = {"hidden_size": 384, "num_attention_heads": 6, "num_hidden_layers": 8}
INNER = 1536


def main() -> None:
    """Measure all three ways side by side and print the ratios."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        golden = converted_base(folder / "golden")
        base = random_chatglm(golden, folder / "base", inner_hidden_size=INNER, **SIZES)
        with serving(base, folder / "server.log") as server:
            ways: dict[str, Callable[[], float]] = {
                "service": lambda: _served(server),
                "generate, one by one": lambda: _generated(base, 1),
                f"generate, batches of {BATCH}": lambda: _generated(base, BATCH),
            }
            for way in ways.values():
                way()  # warm
            speeds: dict[str, list[float]] = {name: [] for name in ways}
            for _ in range(ROUNDS):
                for name, way in ways.items():
                    speeds[name].append(len(PROMPTS) / way())
    medians = {name: statistics.median(each) for name, each in speeds.items()}
    for name, speed in medians.items():
        print(f"{name:24} {speed:6.1f} answers/s   service / it: {medians['service'] / speed:.2f}")


def _served(server: ServerProcess) -> float:
    started = time.monotonic()
    server.generate(PROMPTS, max_tokens=TOKENS, ignore_eos=True)
    return time.monotonic() - started


def _generated(base: Path, batch: int) -> float:
    import torch

    model, rows = _model(base)
    ends = {"eos_token_id": None, "pad_token_id": 3, "do_sample": False}
    started = time.monotonic()
    for first in range(0, len(rows), batch):
        some = rows[first : first + batch]
        longest = max(map(len, some))
        ids = torch.tensor([[3] * (longest - len(row)) + row for row in some])
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in some])
        model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=TOKENS, **ends)
    return time.monotonic() - started


@cache
def _model(base: Path) -> tuple[Any, list[list[int]]]:
    import torch
    from transformers import AutoModelForCausalLM

    import training.chatglm  # noqa: F401
    from training.rendering.conversation import encode_prompt
    from training.rendering.tokenizer import load_tokenizer

    torch.set_num_threads(1)  # as the server's engine
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    tokenizer = load_tokenizer(base, None)
    return model, [encode_prompt(tokenizer, prompt) for prompt in PROMPTS]


if __name__ == "__main__":
    main()
