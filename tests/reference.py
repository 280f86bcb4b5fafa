"""What the served model must say: transformers with the adapter beside the base, not merged."""

from pathlib import Path
from typing import Any


def adapted(base: Path, adapter: Path) -> tuple[Any, Any]:
    """The float32 peft model and the tokenizer that was trained with."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from training.rendering.tokenizer import load_tokenizer

    torch.set_num_threads(1)  # the server's engine wants the other core
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    return PeftModel.from_pretrained(model, adapter).eval(), load_tokenizer(adapter, None)


def greedy_ids(
    model: Any, tokenizer: Any, prompt: str, tokens: int, *, ignore_eos: bool = True
) -> list[int]:
    """The ids that greedy decoding puts after the rendered prompt, `tokens` or up to the end."""
    import torch

    from training.rendering.conversation import encode_prompt

    ids = encode_prompt(tokenizer, prompt)
    ends = {"eos_token_id": None, "min_new_tokens": tokens} if ignore_eos else {}
    with torch.no_grad():
        out = model.generate(
            input_ids=torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            max_new_tokens=tokens,
            do_sample=False,
            **ends,
        )
    generated: list[int] = out[0, len(ids) :].tolist()
    return generated
