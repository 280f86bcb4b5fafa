"""Nothing is tied to LLaMA's names: other families go the whole way with the same commands."""

import json
from pathlib import Path

import pytest
import yaml

from tests.families import FAMILIES, write_family
from tests.reference import adapted, greedy_ids
from tests.server import serving
from training.merge.__main__ import main as merge
from training.train.__main__ import main as train

PROMPTS = ["感冒了怎么办？", "the capital of France", "多喝水。" * 9, "1 + 1", "？", "发烧" * 30]
TOKENS = 16


@pytest.mark.parametrize("family", FAMILIES)
def test_lora_merge_serve_gives_the_ids_of_transformers_with_the_adapter(
    family: str, tmp_path: Path
) -> None:
    base, adapter, merged = tmp_path / "base", tmp_path / "adapter", tmp_path / "merged"
    write_family(family, base)
    targets = f"lora.targets={FAMILIES[family].targets}"
    assert train(["--config", str(write_recipe(tmp_path)), targets]) == 0
    paths = ["--base", str(base), "--adapter", str(adapter), "--output", str(merged), "--verify"]
    assert merge(paths) == 0
    template = (base / "chat_template.jinja").read_text()
    assert (merged / "chat_template.jinja").read_text() == template
    with serving(merged, tmp_path / "server.log") as server:
        served = server.generated_ids(PROMPTS, max_tokens=TOKENS, ignore_eos=True)
    model, tokenizer = adapted(base, adapter)
    assert served == [greedy_ids(model, tokenizer, prompt, TOKENS) for prompt in PROMPTS]
    with model.disable_adapter():
        plain = [greedy_ids(model, tokenizer, prompt, TOKENS) for prompt in PROMPTS]
    assert plain != served  # the adapter matters


def write_recipe(folder: Path) -> Path:
    """Three updates of LoRA on every linear layer that is found, with the model's own template."""
    rows = [{"input": prompt, "target": "多喝水"} for prompt in PROMPTS]
    (folder / "train.json").write_text("\n".join(map(json.dumps, rows)))
    settings = {
        "model": str(folder / "base"),
        "output": str(folder / "adapter"),
        "data": {"train": str(folder / "train.json")},
        "lora": {"r": 4, "alpha": 8},
        "optim": {"lr": 2e-2, "steps": 3, "batch_size": 6, "warmup_ratio": 0},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path
