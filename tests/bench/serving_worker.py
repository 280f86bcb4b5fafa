"""One way to generate without a server, in a process of its own for tests.bench.serving.

    python -m tests.bench.serving_worker offline|transformers MODEL

Each line of stdin is a job, each line of stdout its counts of prompt and completion tokens.
"""

import json
import os
import signal
import sys
from functools import partial
from typing import Any

Job = dict[str, Any]


def main() -> None:
    """Answer jobs until stdin ends."""
    kind, model = sys.argv[1:]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # or LLM's engine process would stay
    # what libraries print must not get between the answers
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    worker: Any = None
    for line in sys.stdin:
        job: Job = json.loads(line)
        if worker is None:
            worker = Offline(model, job["engine"]) if kind == "offline" else Transformers(model)
        print(json.dumps(worker.run(job)), file=answers, flush=True)


class Offline:
    """vLLM's LLM.generate: all prompts in one call."""

    def __init__(self, model: str, engine: dict[str, Any]) -> None:
        from vllm import LLM
        from vllm.v1.engine.llm_engine import LLMEngine

        # The engine core in a process of its own is LLM's default. The variable that keeps the
        # executor "uni" on a CPU would put it into this one.
        start = partial(LLMEngine.from_engine_args, enable_multiprocessing=True)
        LLMEngine.from_engine_args = start
        # LLM alone would leave the statistics out, which a server has to keep
        self._llm = LLM(model=model, generation_config="vllm", disable_log_stats=False, **engine)

    def run(self, job: Job) -> list[int]:
        from vllm import SamplingParams

        params = SamplingParams(temperature=0, max_tokens=job["tokens"], ignore_eos=True)
        outputs = self._llm.generate(
            job["prompts"],
            params,
            use_tqdm=False,
            tokenization_kwargs={"add_special_tokens": False},
        )
        asked = sum(len(output.prompt_token_ids) for output in outputs)
        return [asked, sum(len(output.outputs[0].token_ids) for output in outputs)]


class Transformers:
    """The generate method of transformers, in batches padded on the left."""

    def __init__(self, model: str) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self._tokenizer = AutoTokenizer.from_pretrained(model, padding_side="left")
        self._model = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()

    def run(self, job: Job) -> list[int]:
        import torch

        torch.set_num_threads(job["threads"])
        prompts, size, counts = job["prompts"], job["batch"], [0, 0]
        for first in range(0, len(prompts), size):
            asked, answered = self._batch(prompts[first : first + size], job["tokens"])
            counts = [counts[0] + asked, counts[1] + answered]
        return counts

    def _batch(self, prompts: list[str], tokens: int) -> tuple[int, int]:
        made = self._tokenizer(prompts, add_special_tokens=False, padding=True, return_tensors="pt")
        ids, mask = made["input_ids"], made["attention_mask"]
        out = self._model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=tokens,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
        new = out[:, ids.shape[1] :]
        self._tokenizer.batch_decode(new, skip_special_tokens=True)
        return int(mask.sum()), new.numel()


if __name__ == "__main__":
    main()
