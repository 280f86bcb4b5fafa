"""The served merged model says what the trained adapter says, token for token."""

import json
from pathlib import Path

from tests.reference import adapted, greedy_ids
from tests.server import ServerProcess

LONGEST = 128


def test_greedy_answers_equal_transformers_with_the_unmerged_adapter(
    server: ServerProcess, demo: Path
) -> None:
    """Up to their end: behind it no token is much likelier than the next, and rounding decides."""
    lines = (demo / "data" / "dev.json").read_text("utf-8").split("\n")
    prompts = [json.loads(line)["input"] for line in lines if line]
    assert len(prompts) == 160
    served = server.generate(prompts, max_tokens=LONGEST, logprobs=0)["results"]
    model, tokenizer = adapted(demo / "base", demo / "adapter")
    for prompt, one in zip(prompts, served, strict=True):
        ids = greedy_ids(model, tokenizer, prompt, LONGEST, ignore_eos=False)
        assert [position["token_id"] for position in one["logprobs"]] == ids, prompt
        ended = ids[-1] == tokenizer.eos_token_id
        assert one["finish_reason"] == ("stop" if ended else "length"), prompt
        assert one["generated_text"] == tokenizer.decode(ids, skip_special_tokens=True), prompt
