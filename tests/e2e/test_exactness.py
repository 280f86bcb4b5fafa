"""The served merged model says what the trained adapter says, token for token."""

import json
from pathlib import Path

from tests.reference import adapted, greedy_ids
from tests.server import ServerProcess

PROMPTS = 48
TOKENS = 24


def test_greedy_ids_equal_transformers_with_the_unmerged_adapter(
    server: ServerProcess, demo: Path
) -> None:
    lines = (demo / "data" / "dev.json").read_text("utf-8").split("\n")
    prompts = [json.loads(line)["input"] for line in lines if line][::3][:PROMPTS]
    assert len(prompts) >= 40
    served = server.generated_ids(prompts, max_tokens=TOKENS, ignore_eos=True)
    model, tokenizer = adapted(demo / "base", demo / "adapter")
    assert served == [greedy_ids(model, tokenizer, prompt, TOKENS) for prompt in prompts]
