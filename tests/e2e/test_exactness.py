"""The served merged model says what the trained adapter says, token for token."""

import json
from pathlib import Path

from tests.reference import adapted, greedy_ids
from tests.server import ServerProcess

PROMPTS = 48
TOKENS = 24
LONGEST = 128


def questions(demo: Path) -> list[str]:
    """Of all tasks."""
    lines = (demo / "data" / "dev.json").read_text("utf-8").split("\n")
    found = [json.loads(line)["input"] for line in lines if line][::3][:PROMPTS]
    assert len(found) >= 40
    return found


def test_greedy_ids_equal_transformers_with_the_unmerged_adapter(
    server: ServerProcess, demo: Path
) -> None:
    prompts = questions(demo)
    served = server.generated_ids(prompts, max_tokens=TOKENS, ignore_eos=True)
    model, tokenizer = adapted(demo / "base", demo / "adapter")
    assert served == [greedy_ids(model, tokenizer, prompt, TOKENS) for prompt in prompts]


def test_answers_end_where_those_of_transformers_do(server: ServerProcess, demo: Path) -> None:
    prompts = questions(demo)
    results = server.generate(prompts, max_tokens=LONGEST)["results"]
    model, tokenizer = adapted(demo / "base", demo / "adapter")
    for prompt, result in zip(prompts, results, strict=True):
        ids = greedy_ids(model, tokenizer, prompt, LONGEST, ignore_eos=False)
        ended = ids[-1] == tokenizer.eos_token_id
        assert result["finish_reason"] == ("stop" if ended else "length"), prompt
        assert result["num_output_tokens_cf"] == len(ids), prompt
        assert result["generated_text"] == tokenizer.decode(ids, skip_special_tokens=True), prompt
