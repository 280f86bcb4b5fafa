"""ChatGLM2 and ChatGLM3: converted, trained, merged and served as Glm.

vLLM has a class of its own for the original layout, which knows nothing of ours: it must say the
same from the checkpoint as the hub has it. What transformers says of ours, the service says too.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sentencepiece import SentencePieceProcessor

from tests.paths import ROOT
from tests.reference import adapted, greedy_ids
from tests.server import serving
from tests.training.convert.chatglm2_release import write_release
from training.convert.chatglm.conversion import convert_chatglm
from training.merge.__main__ import main as merge
from training.train.__main__ import main as train

PROMPTS = [
    "感冒了怎么办？",
    "the capital  of France",
    "多喝水。" * 9,
    "1 + 1\n",
    "sop",
    "发烧" * 30,
]
TOKENS = 24
RECIPE = ROOT / "training" / "recipes" / "chatglm2_lora.yaml"
kinds = pytest.mark.parametrize(
    ("kind", "changes"),
    [("chatglm2", {}), ("chatglm3", {"rope_ratio": 50})],  # 50: as in ChatGLM3-6B-32K
    ids=["chatglm2", "chatglm3-32k"],
)


@kinds
def test_the_converted_model_says_what_vllms_own_class_says_of_the_original(
    kind: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    release = write_release(tmp_path / "release", kind, **changes)
    convert_chatglm(release, tmp_path / "model")
    prompts = original_ids(release)
    expected = vllm_ids(release, prompts, tmp_path)
    assert transformers_ids(tmp_path / "model", prompts) == expected
    assert not (release / "TRACE").exists()


def original_ids(release: Path) -> list[list[int]]:
    """[gMASK] sop and the text, as the original tokenizer numbers them."""
    pieces = SentencePieceProcessor(model_file=str(release / "tokenizer.model"))
    count = pieces.vocab_size()
    return [[count + 1, count + 3, *pieces.Encode(prompt)] for prompt in PROMPTS]


def vllm_ids(model: Path, prompts: list[list[int]], folder: Path) -> list[list[int]]:
    limits = {"OMP_NUM_THREADS": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"}
    found = folder / "ids.json"
    arguments = [str(model), json.dumps(prompts), str(TOKENS), str(found)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.e2e.vllm_greedy", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT, timeout=300,
        check=False, env={**os.environ, **limits},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
    assert "ChatGLMModel" in done.stdout  # the architecture that vLLM resolved
    ids: list[list[int]] = json.loads(found.read_text())
    return ids


def transformers_ids(model: Path, prompts: list[list[int]]) -> list[list[int]]:
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    glm = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    assert type(glm).__name__ == "GlmForCausalLM"
    outputs = [
        glm.generate(
            torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            max_new_tokens=TOKENS,
            do_sample=False,
            eos_token_id=None,
        )
        for ids in prompts
    ]
    return [out[0, len(ids) :].tolist() for out, ids in zip(outputs, prompts, strict=True)]


@kinds
def test_lora_merge_serve_gives_the_ids_of_transformers_with_the_adapter(
    kind: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    base, adapter, merged = tmp_path / "base", tmp_path / "adapter", tmp_path / "merged"
    convert_chatglm(write_release(tmp_path / "release", kind, **changes), base)
    rows = [{"input": prompt, "target": "多喝水"} for prompt in PROMPTS]
    data = tmp_path / "train.json"
    data.write_text("\n".join(map(json.dumps, rows)))
    settings = {"model": base, "output": adapter, "data.train": data, "data.eval": data}
    short = {"optim.steps": 3, "optim.lr": 2e-2, "optim.batch_size": 6, "precision": "fp32"}
    overrides = [f"{key}={value}" for key, value in (settings | short).items()]
    assert train(["--config", str(RECIPE), *overrides]) == 0
    paths = ["--base", str(base), "--adapter", str(adapter), "--output", str(merged)]
    assert merge(paths) == 0
    with serving(merged, tmp_path / "server.log") as server:
        served = server.generated_ids(PROMPTS, max_tokens=TOKENS, ignore_eos=True)
    model, tokenizer = adapted(base, adapter)
    assert served == [greedy_ids(model, tokenizer, prompt, TOKENS) for prompt in PROMPTS]
    with model.disable_adapter():
        plain = [greedy_ids(model, tokenizer, prompt, TOKENS) for prompt in PROMPTS]
    assert plain != served  # the adapter matters
