"""Chinese-LLaMA-Alpaca in small: two adapters grow the vocabulary, the new tokens are served."""

from pathlib import Path
from typing import Any

import torch

from tests.models import tiny_adapter, tiny_llama
from tests.server import serving
from training.merge.__main__ import main as merge

BOTH = ["embed_tokens", "lm_head"]
PROMPTS = ["t5 t17 t99", "t101 t149 t3", "t150 t150 t120"]
TOKENS = 12


def write_tokenizer(folder: Path, size: int) -> None:
    """Words t0, t2, t3, … with their number as id; 1 is the end of a text."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    ids = {"</s>" if n == 1 else f"t{n}": n for n in range(size)}
    words = Tokenizer(models.WordLevel(ids, unk_token="t0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="t0", eos_token="</s>")
    made.save_pretrained(folder)


def test_the_merged_model_answers_with_the_grown_vocabulary(tmp_path: Path) -> None:
    base = tiny_llama(
        tmp_path / "base", vocab_size=100, hidden_size=64, num_attention_heads=2,
        max_position_embeddings=256, initializer_range=0.2,
    )  # fmt: skip
    write_tokenizer(base, 100)
    arguments = ["--base", str(base), "--output", str(tmp_path / "merged")]
    for seed, rows in ((1, 150), (2, 151)):
        adapter = tiny_adapter(
            base, tmp_path / str(rows), seed, std=0.2, rows=rows, modules_to_save=BOTH
        )
        write_tokenizer(adapter, rows)
        arguments += ["--adapter", str(adapter)]
    assert merge(arguments) == 0
    with serving(tmp_path / "merged", tmp_path / "server.log") as server:
        ids = server.generated_ids(PROMPTS, max_tokens=TOKENS, ignore_eos=True)
        newest = server.generate("t5", max_tokens=2, ignore_eos=True, allowed_token_ids=[150])
    assert ids == [transformers_ids(tmp_path / "merged", prompt) for prompt in PROMPTS]
    assert any(token >= 100 for answer in ids for token in answer)
    assert newest["generated_text"].split() == ["t150", "t150"]


def transformers_ids(model: Path, prompt: str) -> list[int]:
    from transformers import AutoModelForCausalLM

    ids = torch.tensor([[int(word[1:]) for word in prompt.split()]])
    loaded: Any = AutoModelForCausalLM.from_pretrained(model)
    out = loaded.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=TOKENS,
        min_new_tokens=TOKENS, do_sample=False, eos_token_id=None,
    )  # fmt: skip
    generated: list[int] = out[0, ids.shape[1] :].tolist()
    return generated
