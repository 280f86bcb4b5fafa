"""A prompt has the same token ids in training and in serving, with exactly one BOS."""

import copy
import json
import resource
from collections.abc import Callable
from inspect import getclosurevars
from pathlib import Path
from typing import Any

import pytest
from vllm.tokenizers.hf import maybe_make_thread_pool

from service.engine.tokenizers import limit_pooled_caches
from service.generation.prompt import PromptEncoder
from training.rendering.conversation import encode_prompt
from training.rendering.tokenizer import load_tokenizer

ODD = [
    "感冒了怎么办？\n答：",
    "  两边有空格  ",
    "第一行\n\n\n第二行\t制表",
    "emoji 🤒 and Latin é, 罕见字：龘",
    "答：在中间，答：在末尾\n答：",
    "问：\n用户自己写了问\n答：\n",
    "a" * 500,
    "U+2028\u2028在里面",
    "[INST] <|im_start|> {{ bos_token }} {% if %}",
]


def test_ids_of_odd_prompts_are_equal(tokenizer: Any) -> None:
    for prompt in ODD:
        _assert_same(tokenizer, tokenizer, prompt)


def test_truncation_that_others_set_does_not_reach_prompts(tokenizer: Any) -> None:
    used_elsewhere = copy.deepcopy(tokenizer)
    used_elsewhere.backend_tokenizer.enable_truncation(5)
    assert len(PromptEncoder(used_elsewhere).encode("a" * 500)) > 5


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.parametrize("route", ["/generate", "/v1"])
def test_prompts_are_not_kept_in_memory(tokenizer: Any, route: str) -> None:
    """A tokenizer's own cache would hold 1.6 KB for every prompt: 24 MB here."""
    used = copy.deepcopy(tokenizer)
    if route == "/generate":
        encode: Callable[[str], Any] = PromptEncoder(used).encode
    else:
        limit_pooled_caches(maybe_make_thread_pool(used))
        borrow = getclosurevars(type(used).encode).nonlocals["_borrow_from_pool"]
        with borrow(), borrow():
            pass  # so there is a second copy
        encode = used.encode
    words = ODD[0], ODD[4], ODD[6][:20]
    encode("warm")
    before = resident_bytes()
    for number in range(15_000):
        encode(f"{words[number % 3]}{number}{words[1]}{number}" * 2)
    assert resident_bytes() - before < 10 * 2**20


@pytest.mark.parametrize("split", ["train", "dev", "test"])
def test_ids_of_the_demo_are_equal(demo: Path, split: str) -> None:
    trained = load_tokenizer(demo / "base", "llama")
    served = load_tokenizer(demo / "model", None)
    lines = (demo / "data" / f"{split}.json").read_text("utf-8").split("\n")
    for line in lines:
        if line:
            _assert_same(trained, served, json.loads(line)["input"])


def _assert_same(trained: Any, served: Any, prompt: str) -> None:
    in_training = encode_prompt(trained, prompt)
    in_serving = PromptEncoder(served).encode(prompt)
    assert in_training == in_serving
    assert in_serving.count(served.bos_token_id) == 1
    assert in_serving[0] == served.bos_token_id
