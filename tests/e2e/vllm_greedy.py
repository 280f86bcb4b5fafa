"""`python -m tests.e2e.vllm_greedy MODEL IDS COUNT FILE`: vLLM's greedy ids, written to FILE.

Without a tokenizer and without remote code: for checkpoints that vLLM has a class of its own for.
"""

import json
import sys
from pathlib import Path


def main() -> None:
    from vllm import LLM, SamplingParams

    model, prompts, count = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
    llm = LLM(
        model,
        skip_tokenizer_init=True,
        trust_remote_code=False,
        dtype="float32",
        enforce_eager=True,
        runner="generate",
    )
    sampling = SamplingParams(temperature=0, max_tokens=count, ignore_eos=True, detokenize=False)
    outputs = llm.generate([{"prompt_token_ids": ids} for ids in prompts], sampling)
    ids = [list(output.outputs[0].token_ids) for output in outputs]
    Path(sys.argv[4]).write_text(json.dumps(ids))


if __name__ == "__main__":
    main()
