"""The served merged model says what the trained adapter says, token for token."""

import json
from pathlib import Path
from typing import Any

from tests.server import ServerProcess

PROMPTS = 48
TOKENS = 24


def test_greedy_ids_equal_transformers_with_the_unmerged_adapter(
    server: ServerProcess, demo: Path
) -> None:
    lines = (demo / "data" / "dev.json").read_text("utf-8").split("\n")
    prompts = [json.loads(line)["input"] for line in lines if line][::3][:PROMPTS]
    assert len(prompts) >= 40
    served = server.generate(prompts, max_tokens=TOKENS, ignore_eos=True, logprobs=0)["results"]
    served_ids = [[position["token_id"] for position in one["logprobs"]] for one in served]
    model, tokenizer = _adapter_model(demo)
    expected = [_transformers_ids(prompt, model, tokenizer) for prompt in prompts]
    assert served_ids == expected


def _adapter_model(demo: Path) -> tuple[Any, Any]:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from training.rendering import load_tokenizer

    torch.set_num_threads(1)  # the server's engine wants the other core
    base = AutoModelForCausalLM.from_pretrained(demo / "base", dtype=torch.float32)
    model = PeftModel.from_pretrained(base, demo / "adapter").eval()
    return model, load_tokenizer(demo / "adapter", None)


def _transformers_ids(prompt: str, model: Any, tokenizer: Any) -> list[int]:
    import torch

    from training.rendering import encode_prompt

    ids = encode_prompt(tokenizer, prompt)
    with torch.no_grad():
        out = model.generate(
            input_ids=torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            max_new_tokens=TOKENS,
            min_new_tokens=TOKENS,
            do_sample=False,
            eos_token_id=None,
        )
    generated: list[int] = out[0, len(ids) :].tolist()
    return generated
