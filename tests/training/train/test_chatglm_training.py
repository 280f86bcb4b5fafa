"""ChatGLM-6B through training.train and training.merge: LoRA, P-tuning v2, with and without MLP."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tests.chatglm import GOLDEN, converted_base, random_prefix
from tests.models import weights
from training.chatglm.prefix import Prefix
from training.errors import TrainingError
from training.merge.__main__ import main
from training.merge.job import merge
from training.rendering.conversation import encode_prompt
from training.rendering.tokenizer import load_tokenizer
from training.train.config import load_config
from training.train.job import train

LAYERS, HEADS, WIDTH = 4, 4, 32
LONG = ["optim.steps=30", "log_every=5", "template=null"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return converted_base(tmp_path_factory.mktemp("chatglm") / "base")


def trained(recipe: Path, base: Path, *overrides: str) -> tuple[Path, float, float]:
    """The adapter, the loss at the beginning and at the end."""
    adapter = train(load_config(recipe, [f"model={base}", *LONG, *overrides]))
    lines = (adapter.parent / "adapter.run" / "log.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in lines if '"loss"' in line]
    return adapter, losses[0], losses[-1]


def logits(model: Any, base: Path) -> torch.Tensor:
    ids = torch.tensor([encode_prompt(load_tokenizer(base, None), "病人咳嗽，怎么办？")])
    with torch.no_grad():
        result: torch.Tensor = model.eval()(input_ids=ids).logits
    return result


def test_lora_learns_and_the_merged_model_is_base_with_adapter(
    recipe: Path, base: Path, tmp_path: Path
) -> None:
    adapter, first, last = trained(recipe, base, "lora.r=16", "optim.lr=5e-3")
    assert last < first / 2
    verdict = merge(base, [adapter], tmp_path / "merged", prompts=["头痛", "咳嗽"]).verdict
    assert verdict
    model = AutoModelForCausalLM.from_pretrained(base)
    with_adapter = logits(PeftModel.from_pretrained(model, adapter), base)
    merged = logits(AutoModelForCausalLM.from_pretrained(tmp_path / "merged"), base)
    assert float((with_adapter - merged).abs().max()) < 1e-3
    tokenizer = load_tokenizer(tmp_path / "merged", None)
    assert tokenizer.chat_template == load_tokenizer(base, None).chat_template


@pytest.mark.parametrize(
    "prefix", ["{tokens: 6}", "{tokens: 6, projection: true, projection_size: 24}"]
)
def test_p_tuning_learns_in_little_memory_and_is_written_folded(
    recipe: Path, base: Path, tmp_path: Path, prefix: str
) -> None:
    less = ["gradient_checkpointing=true", "optim.micro_batch=1"]
    rate = "optim.lr=1e-2" if "projection" in prefix else "optim.lr=5e-2"
    adapter, first, last = trained(recipe, base, "lora=null", f"prefix={prefix}", rate, *less)
    assert last < first * 0.9
    table = weights(adapter)["prompt_embeddings"]
    assert table.shape == (6, 2 * LAYERS * HEADS * WIDTH)
    merge(base, [adapter], tmp_path / "model")
    config = json.loads((tmp_path / "model/config.json").read_text())
    assert config["prefix_tokens"] == 6
    stored = load_file(tmp_path / "model/prefix/prefix.safetensors")
    model = AutoModelForCausalLM.from_pretrained(base)
    model.transformer.prefix = Prefix(6, LAYERS, HEADS, WIDTH).eval()
    model.transformer.prefix.embedding.weight.data = table
    for number, half in enumerate(model.transformer.prefix()):
        name = f"layers.{number // 2}.{('key', 'value')[number % 2]}"
        assert torch.equal(stored[name], half)
    told = json.loads((tmp_path / "model/provenance.json").read_text())
    assert told["adapters"][0]["prefix_tokens"] == 6
    for name, tensor in weights(tmp_path / "model").items():
        assert torch.equal(tensor, weights(base)[name])


@pytest.mark.parametrize("method", ["lora={r: 16}", "prefix={tokens: 6}", "full={}"])
def test_it_learns_in_bf16(recipe: Path, base: Path, method: str) -> None:
    settings = ["lora=null", method, "precision=bf16", "optim.lr=1e-2"]
    _, first, last = trained(recipe, base, *settings)
    assert last < first


def test_packing_is_refused(recipe: Path, base: Path) -> None:
    with pytest.raises(TrainingError, match=r"cannot be packed: use data\.batching=grouped"):
        trained(recipe, base, "data.batching=packed")


@pytest.mark.parametrize("projection", [False, True])
def test_a_prefix_of_the_original_code_is_folded_into_the_directory(
    base: Path, tmp_path: Path, projection: bool
) -> None:
    merge(base, [random_prefix(base, tmp_path / "p", 5, projection=projection)], tmp_path / "out")
    stored = load_file(tmp_path / "out/prefix/prefix.safetensors")
    state = torch.load(tmp_path / "p/pytorch_model.bin", weights_only=True)
    parts = {name.removeprefix("transformer.prefix_encoder."): t for name, t in state.items()}
    prefix = Prefix(5, LAYERS, HEADS, WIDTH, 48 if projection else None).eval()
    prefix.load_state_dict(parts)
    with torch.no_grad():
        expected = prefix()
    assert len(stored) == 2 * LAYERS
    assert torch.allclose(stored["layers.3.value"], expected[7], atol=1e-5)


def test_wrong_prefixes_are_refused_by_name(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*arguments: object) -> str:
        out = ["--output", str(tmp_path / "out")]
        assert main(["--base", str(base), *map(str, arguments), *out]) == 2
        assert not (tmp_path / "out").exists()
        return capsys.readouterr().err

    prefix, lora = GOLDEN / "ptuning", GOLDEN / "lora_adapter"
    assert "goes into a model directory alone" in refused("--adapter", prefix, "--adapter", lora)
    assert "--verify checks changed weights" in refused("--adapter", prefix, "--verify")
    merge(base, [prefix], tmp_path / "prefixed")
    again = refused("--base", tmp_path / "prefixed", "--adapter", lora)
    assert "holds a trained prefix" in again
    llama = GOLDEN / "llama_prefix/adapter"
    other = tmp_path / "other"
    other.mkdir()
    (other / "adapter_config.json").write_text('{"peft_type": "PREFIX_TUNING"}')
    assert "neither adapter_model.safetensors" in refused("--adapter", other)
    (other / "adapter_model.safetensors").write_bytes(
        (llama / "adapter_model.safetensors").read_bytes()
    )
    assert "does not fit" in refused("--adapter", other)
