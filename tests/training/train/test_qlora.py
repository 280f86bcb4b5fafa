"""QLoRA: a base in 4 or 8 bits that never changes, and adapters that are right on it."""

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from tests.chatglm import converted_base
from tests.families import write_family
from tests.training.conftest import wide_llama
from tests.training.train.test_distributed import furthest, torchrun
from tests.training.train.test_resume import assert_equal_runs, train_in_process
from training.merge.__main__ import main as merge
from training.merge.learnt_on.layers import linear_layers
from training.train.__main__ import main as train
from training.train.config import load_config
from training.train.methods.quantised_base import LAYERS, elements, prepare
from training.train.setup import load_base
from training.weights.blockwise import dequantised

FAMILIES = ["llama3", "llama3-tied", "qwen2", "qwen3", "glm4", "gemma2", "bloom", "chatglm"]
PREFIXED = ["llama3", "llama3-tied", "chatglm"]
SCHEMES = ["nf4", "int8"]
PREFIX = ["lora=null", "prefix={tokens: 5}", "optim.lr=5e-2", "optim.steps=30"]
LONG = ["optim.steps=12", "optim.lr=1e-2", "log_every=1", "save_every=12", "lora.dropout=0"]
P_TUNING = ["model=CHATGLM", "template=chatglm", "lora=null", "prefix={tokens: 3}"]
IDS = torch.arange(5, 24)[None]


def base_of(family: str, folder: Path) -> Path:
    if family == "chatglm":
        return converted_base(folder)
    return write_family(family, folder, intermediate_size=128)


@pytest.fixture
def base_model(wide_base: Path) -> Path:
    """In place of the one that other tests train on."""
    return wide_base


def trained(recipe: Path, *overrides: str) -> Path:
    assert train(["--config", str(recipe), *overrides]) == 0
    return recipe.with_name("adapter")


def quantised(recipe: Path, scheme: str, *overrides: str) -> Any:
    """The base as training has it."""
    config = load_config(recipe, [f"quantization={scheme}", *overrides])
    base = load_base(config)
    prepare(base, config, torch.device("cpu"))
    return base


def dequantised_model(path: Path, scheme: str, dtype: torch.dtype) -> Any:
    """The base in full with the values that its quantised layers stand for."""
    model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=dtype)
    for layer in linear_layers(model).values():
        weight = layer.get_parameter("weight")
        weight.data = torch.cat([*dequantised(scheme, [weight.data])])
    return model


def losses(adapter: Path) -> list[float]:
    lines = (adapter.with_name(f"{adapter.name}.run") / "log.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines if '"loss"' in line]


def ids_for(model: Any) -> torch.Tensor:
    if model.config.model_type != "chatglm_6b":
        return IDS
    marks = torch.tensor([[model.config.gmask_token_id, model.config.bos_token_id]])
    return torch.cat((IDS, marks), dim=1)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = model.eval()(input_ids=ids_for(model)).logits
    return result


@pytest.mark.parametrize(
    ("family", "method"),
    [(family, []) for family in FAMILIES] + [(family, PREFIX) for family in PREFIXED],
)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_loss_falls_and_what_is_learnt_is_merged_into_what_it_was_learnt_on(
    recipe: Path, tmp_path: Path, family: str, scheme: str, method: list[str]
) -> None:
    base = base_of(family, tmp_path / "base")
    settings = [f"model={base}", "template=null", f"quantization={scheme}", *LONG, *method]
    settings = [each for each in settings if not (method and each == "lora.dropout=0")]
    adapter = trained(recipe, *settings)
    assert np.mean(losses(adapter)[-3:]) < np.mean(losses(adapter)[:3])
    assert json.loads((adapter / "quantization.json").read_text()) == {
        "scheme": scheme,
        "dtype": "float32",
    }
    if method:
        return
    paths = ["--base", str(base), "--adapter", str(adapter)]
    assert merge([*paths, "--output", str(tmp_path / "same"), "--into", "dequantised"]) == 0
    assert merge([*paths, "--output", str(tmp_path / "full")]) == 0
    live = quantised(recipe, scheme, *settings)
    expected = logits(PeftModel.from_pretrained(live, adapter))
    same = logits(AutoModelForCausalLM.from_pretrained(tmp_path / "same"))
    full = logits(AutoModelForCausalLM.from_pretrained(tmp_path / "full"))
    size = float(expected.abs().max())
    assert float((same - expected).abs().max()) < 1e-4 * size
    assert float((full - expected).abs().max()) > 1e-3 * size


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_quantised_layers_compute_with_the_dequantised_weights_and_never_change(
    recipe: Path, base_model: Path, scheme: str, precision: str
) -> None:
    live = quantised(recipe, scheme, f"precision={precision}")
    plain = dequantised_model(base_model, scheme, live.dtype)
    before = {name: tensor.clone() for name, tensor in live.state_dict().items()}
    embedded = live.get_input_embeddings()(IDS).detach()
    results = []
    for model in (live, plain):
        model.eval()
        with torch.no_grad():
            evaluated = model(input_ids=IDS).logits
        model.train()
        inputs = embedded.clone().requires_grad_()
        out = model(inputs_embeds=inputs).logits
        torch.autograd.backward(out.float().square().mean())
        results.append((evaluated, out.detach(), inputs.grad))
    for ours, expected in zip(*results, strict=True):
        assert ours is not None
        torch.testing.assert_close(ours, expected, rtol=0, atol=0)
    after = live.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("shape", [(64, 64), (200, 48), (130, 98), (65, 33)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_chunks_of_a_weight_become_what_the_whole_becomes(
    scheme: str, shape: tuple[int, int], dtype: torch.dtype
) -> None:
    torch.manual_seed(3)
    weight = torch.randn(shape).to(dtype)
    (whole,) = dequantised(scheme, [weight])
    chunks = [*dequantised(scheme, torch.split(weight, 64))]
    assert torch.equal(torch.cat(chunks), whole)
    assert whole.dtype == dtype
    error = (whole.float() - weight.float()).norm() / weight.float().norm()
    assert 0 < error < {"nf4": 0.11, "int8": 0.011}[scheme]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("scheme", "share"), [("nf4", 0.26), ("int8", 0.52)])
def test_linear_layers_shrink_and_embeddings_and_heads_stay_whole(
    recipe: Path, tmp_path: Path, family: str, scheme: str, share: float
) -> None:
    path = base_of(family, tmp_path / "base")
    live = quantised(recipe, scheme, f"model={path}", "precision=bf16")
    plain: Any = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16)
    names = {name for name, module in live.named_modules() if isinstance(module, LAYERS)}
    assert names == linear_layers(plain).keys()
    assert type(live.get_output_embeddings()) is torch.nn.Linear
    assert live.get_output_embeddings().weight.dtype == torch.bfloat16
    assert sum(map(elements, live.parameters())) == sum(p.numel() for p in plain.parameters())
    in_full = sum(plain.get_parameter(f"{name}.weight").nbytes for name in names)
    packed = sum(live.get_submodule(name).weight.nbytes for name in names)
    assert packed <= share * in_full


def test_memory_is_printed_before_and_after(
    recipe: Path, tokenizer: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = wide_llama(tmp_path / "model", tokenizer, hidden_size=512, intermediate_size=1536)
    trained(recipe, f"model={base}", "quantization=nf4", "optim.steps=1")
    out = capsys.readouterr().out
    assert (
        "base: 42 MB in fp32 -> 20 MB with 14 linear layers in nf4 (25 MB in fp32 -> 3 MB)" in out
    )
    assert "of a " in out


KINDS = {
    "adalora": ["lora=null", "adalora={init_r: 4, target_r: 2, tinit: 1, tfinal: 1}"],
    "whole-ends": ["lora.modules_to_save=[lm_head, embed_tokens]", "data.batching=packed"],
    "checkpointing": ["gradient_checkpointing=true", "optim.micro_batch=1"],
    "dora": ["lora.dora=true"],  # which is refused on int8
}


@pytest.mark.parametrize(
    ("scheme", "kind"),
    [(scheme, kind) for scheme in SCHEMES for kind in KINDS if (scheme, kind) != ("int8", "dora")],
)
def test_every_kind_of_adapter_is_right_on_a_quantised_base(
    recipe: Path, base_model: Path, tmp_path: Path, scheme: str, kind: str
) -> None:
    settings = [f"quantization={scheme}", *KINDS[kind]]
    adapter = trained(recipe, *settings, "optim.steps=24", "optim.lr=2e-2")
    assert np.mean(losses(adapter)[-3:]) < np.mean(losses(adapter)[:3])
    arguments = ["--base", str(base_model), "--adapter", str(adapter), "--into", "dequantised"]
    assert merge([*arguments, "--output", str(tmp_path / "merged")]) == 0
    live = quantised(recipe, scheme)
    expected = logits(PeftModel.from_pretrained(live, adapter))
    merged = logits(AutoModelForCausalLM.from_pretrained(tmp_path / "merged"))
    assert float((merged - expected).abs().max()) < 1e-4 * float(expected.abs().max())


@pytest.mark.parametrize(
    "overrides",
    [
        ["quantization=nf4"],
        ["quantization=nf4", "precision=bf16", "gradient_checkpointing=true"],
        ["quantization=int8"],
        ["quantization=nf4", "lora=null", "prefix={tokens: 3}"],
        ["quantization=nf4", "lora=null", "adalora={init_r: 4, target_r: 2, tinit: 1, tfinal: 1}"],
        [
            "quantization=nf4",
            "model=CHATGLM",
            "template=chatglm",
            "lora=null",
            "prefix={tokens: 3}",
        ],
    ],
    ids=["nf4", "bf16", "int8", "prefix", "adalora", "p-tuning"],
)
def test_killed_and_resumed_equals_undisturbed_with_evaluations_in_between(
    recipe: Path, tmp_path: Path, overrides: list[str]
) -> None:
    if "model=CHATGLM" in overrides:
        base = converted_base(tmp_path / "chatglm")
        overrides = [each.replace("CHATGLM", str(base)) for each in overrides]
    settings = [*overrides, "save_every=2", "eval_every=1"]
    assert train_in_process(recipe, settings) == 0
    settings = [f"output={tmp_path / 'other'}", *settings]
    assert train_in_process(recipe, settings, kill="after 5") == -signal.SIGKILL
    assert train_in_process(recipe, settings, resume=True) == 0
    assert_equal_runs(tmp_path / "adapter", tmp_path / "other")


def test_two_processes_equal_one(recipe: Path, tmp_path: Path) -> None:
    settings = ["quantization=nf4", "lora.dropout=0", "optim.steps=12", "optim.lr=1e-3"]
    for name, processes in (("one", 1), ("two", 2)):
        ended = torchrun(recipe, f"output={tmp_path / name}", *settings, processes=processes)
        assert ended.returncode == 0, ended.stderr
    assert furthest(tmp_path / "one", tmp_path / "two") <= 1e-5


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["parallel=fsdp"], "parallel=fsdp cannot share out quantised weights"),
        (["lora=null", "full={}"], "quantization freezes the base's weights, which full trains"),
        (["lora.modules_to_save=[q_proj]"], "modules_to_save trains q_proj whole"),
        (["lora.modules_to_save=[mlp]"], "modules_to_save trains mlp whole"),
        (["quantization=int3"], "quantization"),
        (["quantization=int8", "lora.dora=true"], "use quantization=nf4, or lora.dora=false"),
        (["model=ODD"], "needs rows of whole blocks of 64 weights, and those of model.layers.0"),
    ],
)
def test_what_cannot_be_done_is_refused(
    recipe: Path, tmp_path: Path, tokenizer: Any, capsys: pytest.CaptureFixture[str],
    overrides: list[str], message: str,
) -> None:  # fmt: skip
    if "model=ODD" in overrides:
        overrides = [f"model={wide_llama(tmp_path / 'odd', tokenizer, hidden_size=32)}"]
    assert train(["--config", str(recipe), "quantization=nf4", *overrides]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "adapter").exists()


def test_a_base_whose_matrices_would_stay_in_full_is_refused(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = write_family("qwen3-moe", tmp_path / "base")
    settings = [f"model={base}", "template=null", "quantization=nf4", "lora.targets=[q_proj]"]
    assert train(["--config", str(recipe), *settings]) == 2
    error = capsys.readouterr().err
    assert "has matrices in others, which would stay in full" in error
    assert "experts" in error
