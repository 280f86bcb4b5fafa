"""Trained prefixes on models of other sizes and families: served as transformers computes them."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.chatglm import GOLDEN, attach_prefix, converted_base, random_chatglm, random_prefix
from tests.server import ServerProcess, serving
from training.merge.job import merge

LLAMA = GOLDEN / "llama_prefix"
TOKENS = 24
PROMPTS = ["头痛", "病人咳嗽，高血压", "[Round 0]\n问：发热怎么办？\n答：", "a  b\tc", "疗" * 70]
SIZES: dict[str, dict[str, int]] = {
    "wide": {"hidden_size": 192, "num_attention_heads": 6, "num_hidden_layers": 3},
    "deep": {"hidden_size": 64, "num_attention_heads": 2, "num_hidden_layers": 6},
}


@pytest.mark.parametrize(("name", "projection"), [("wide", True), ("deep", False)])
def test_other_chatglm_checkpoints_agree_between_transformers_and_the_service(
    name: str, projection: bool, tmp_path: Path
) -> None:
    golden = converted_base(tmp_path / "golden")
    base = random_chatglm(golden, tmp_path / "base", inner_hidden_size=200, **SIZES[name])
    prefix = random_prefix(base, tmp_path / "prefix", 5, projection=projection)
    merge(base, [prefix], tmp_path / "model")
    expected = greedy_with_prefix(base, prefix)
    with serving(tmp_path / "model", tmp_path / "server.log") as server:
        assert server.generated_ids(PROMPTS, max_tokens=TOKENS, ignore_eos=True) == expected
    assert len({tuple(ids) for ids in expected}) == len(PROMPTS)


def greedy_with_prefix(base: Path, prefix: Path) -> list[list[int]]:
    import torch
    from transformers import AutoModelForCausalLM

    import training.chatglm  # noqa: F401
    from tests.reference import greedy_ids
    from training.rendering.tokenizer import load_tokenizer

    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    attach_prefix(model, prefix)
    tokenizer = load_tokenizer(base, None)
    return [greedy_ids(model, tokenizer, prompt, TOKENS) for prompt in PROMPTS]


@pytest.mark.parametrize(("offset", "golden"), [(6, "greedy_offsetP"), (0, "greedy_offset0")])
def test_a_llama_prefix_with_chunked_prefill_and_prefix_caching(
    offset: int, golden: str, tmp_path: Path
) -> None:
    merge(llama_base(tmp_path / "base"), [peft_prefix(tmp_path / "prefix")], tmp_path / "model")
    path = tmp_path / "model/config.json"
    config = json.loads(path.read_text())
    assert config["prefix_position_offset"] == 6  # peft trains the text behind the prefix
    path.write_text(json.dumps(config | {"prefix_position_offset": offset}))
    rows = json.loads((LLAMA / "expected/expected.json").read_text())["prompts"]
    small_steps = {"max_num_batched_tokens": 32, "block_size": 32, "enable_prefix_caching": True}
    settings = {"max_num_seqs": 4, "engine_args": json.dumps(small_steps)}
    with serving(tmp_path / "model", tmp_path / "server.log", **settings) as server:
        one_by_one = [raw_ids(server, [row["input_ids"]])[0] for row in rows]
        together = raw_ids(server, [row["input_ids"] for row in rows])
        assert server.metric("vllm:prefix_cache_hits_total") > 0
        assert httpx.get(f"{server.url}/info", timeout=60).json()["max_model_len"] == 512 - 6
        same, hits = again(server, list(range(10, 110)))
    assert same  # the prefix's own keys are cached like any others, and change nothing
    assert hits >= 96
    assert max(len(row["input_ids"]) for row in rows) > 32  # one at least came in pieces
    assert one_by_one == together == [row[golden] for row in rows]


def again(server: ServerProcess, prompt: Sequence[int]) -> tuple[bool, float]:
    """Whether a second answer is the first, and how many tokens the cache gave meanwhile."""
    before = server.metric("vllm:prefix_cache_hits_total")
    first, second = (raw_ids(server, [prompt]) for _ in range(2))
    return first == second, server.metric("vllm:prefix_cache_hits_total") - before


def raw_ids(server: ServerProcess, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    texts = [" ".join(f"w{token}" for token in prompt) for prompt in prompts]
    return server.generated_ids(texts, raw=True, max_tokens=TOKENS, ignore_eos=True)


def llama_base(folder: Path) -> Path:
    """The golden LLaMA with a tokenizer whose words name the ids: w0, w1, w2."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copyfile(LLAMA / name, folder / name)
    words = Tokenizer(models.WordLevel({f"w{token}": token for token in range(320)}, "w0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="w0").save_pretrained(folder)
    return folder


def peft_prefix(folder: Path) -> Path:
    folder.mkdir()
    shutil.copyfile(
        LLAMA / "adapter/adapter_model.safetensors", folder / "adapter_model.safetensors"
    )
    settings: dict[str, Any] = {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 6}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return folder
