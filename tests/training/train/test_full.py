"""Full fine-tuning: the base's own weights train, and a whole checked model directory comes out."""

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from service.integrity import verify
from tests.chatglm import converted_base
from tests.families import write_family
from tests.models import tiny_adapter, tiny_llama, weights
from tests.training.train.test_distributed import furthest, losses, torchrun
from tests.training.train.test_resume import assert_equal_runs, train_in_process
from training.merge.__main__ import main as merge
from training.quantize import main as quantize
from training.train.__main__ import main as train

FULL = ["lora=null", "full={}", "optim.lr=1e-3"]
FAMILIES = ["llama3", "llama3-tied", "qwen2", "qwen3", "glm4", "gemma2", "bloom", "chatglm"]
TOKENIZED = {"chat_template.jinja", "tokenizer.json", "tokenizer_config.json"}


def trained(recipe: Path, *overrides: str) -> Path:
    assert train(["--config", str(recipe), *FULL, *overrides]) == 0
    return recipe.with_name("adapter")


def of_checkpoint(output: Path, update: int) -> dict[str, torch.Tensor]:
    """The weights of a checkpoint in fp32, by the names of the model's."""
    path = output.with_name(f"{output.name}.run") / f"checkpoint-{update}" / "state.pt"
    state: Any = torch.load(path, weights_only=True)
    return {name.removeprefix("base_model."): w for name, w in state["weights"].items()}


def parameters(directory: Path) -> dict[str, torch.Tensor]:
    model = AutoModelForCausalLM.from_pretrained(directory)
    return {name: p.detach() for name, p in model.named_parameters()}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_falls_and_the_output_is_the_trained_model(
    recipe: Path, tmp_path: Path, family: str
) -> None:
    base = tmp_path / "base"
    converted_base(base) if family == "chatglm" else write_family(family, base)
    output = trained(recipe, f"model={base}", "template=null", "optim.steps=12", "save_every=6")
    learnt = losses(output)[:-1]
    assert np.mean(learnt[-3:]) < np.mean(learnt[:3])
    assert verify(output).files == len([*output.iterdir()]) - 1
    assert {path.name for path in output.iterdir()} >= TOKENIZED | {"training.yaml", "config.json"}
    expected, found, before = of_checkpoint(output, 12), parameters(output), parameters(base)
    assert expected.keys() == found.keys() == before.keys()
    for name, weight in found.items():
        assert torch.equal(weight, expected[name].to(weight.dtype)), name
        assert weight.dtype == before[name].dtype
    changed = [name for name, weight in found.items() if not torch.equal(weight, before[name])]
    assert len(changed) > 0.9 * len(found)
    ours, theirs = (json.loads((path / "config.json").read_text()) for path in (output, base))
    assert ours.get("tie_word_embeddings") == theirs.get("tie_word_embeddings")


def test_named_parts_alone_change(recipe: Path, base_model: Path) -> None:
    output = trained(recipe, r"full.targets=[layers\.1\.mlp, lm_head]", "precision=bf16")
    before, after = weights(base_model), weights(output)
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if "layers.1.mlp" in name or "lm_head" in name}
    told = json.loads((output / "provenance.json").read_text())
    assert told["full"]["targets"] == [r"layers\.1\.mlp", "lm_head"]
    assert told["full"]["tensors"] == len(changed) == 4


@pytest.mark.parametrize(("wanted", "stored"), [("null", "bfloat16"), ("float32", "float32")])
def test_what_rounding_loses_is_told_and_can_be_kept(
    recipe: Path, base_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    wanted: str, stored: str,
) -> None:  # fmt: skip
    base = tiny_llama(tmp_path / "base", vocab_size=4140, dtype="bfloat16")
    for path in base_model.glob("*token*"):
        shutil.copy(path, base)
    output = trained(recipe, f"model={base}", f"full.dtype={wanted}", "optim.lr=1e-4")
    before, after, exact = weights(base), weights(output), of_checkpoint(output, 6)
    lost = sum(float((exact[name] - w.float()).square().sum()) for name, w in after.items())
    change = sum(float((exact[name] - w.float()).square().sum()) for name, w in before.items())
    assert (
        f"rounding to {stored} lost {(lost / change) ** 0.5:.1%} of it".replace(
            "of it", "of the change"
        )
        in capsys.readouterr().out
    )
    assert (lost == 0) == (stored == "float32")
    for name, weight in after.items():
        assert torch.equal(weight, exact[name].to(getattr(torch, stored)))


def test_a_trained_model_is_merged_into_quantised_and_trained_again(
    recipe: Path, base_model: Path, tmp_path: Path
) -> None:
    output = trained(recipe)
    adapter = tiny_adapter(output, tmp_path / "lora")
    arguments = ["--base", str(output), "--adapter", str(adapter), "--output"]
    assert merge([*arguments, str(tmp_path / "merged")]) == 0
    arguments = ["--model", str(output), "--scheme", "int8", "--output"]
    assert quantize([*arguments, str(tmp_path / "small")]) == 0
    again = [f"model={output}", f"output={tmp_path / 'again'}"]
    assert train(["--config", str(recipe), *FULL, *again]) == 0
    checkpoint = tmp_path / "adapter.run" / "checkpoint-4"
    arguments = ["--base", str(base_model), "--adapter", str(checkpoint), "--output"]
    assert merge([*arguments, str(tmp_path / "earlier")]) == 0
    earlier = weights(tmp_path / "earlier")
    for name, weight in of_checkpoint(output, 4).items():
        assert torch.equal(earlier[name], weight)


EIGHT = "full={optimizer: adamw8bit}"


@pytest.mark.parametrize(
    "overrides",
    [
        ["eval_every=1"],
        [EIGHT, "eval_every=1"],
        [r"full={targets: [mlp]}", "precision=bf16", "gradient_checkpointing=true"],
        ["model=CHATGLM", "template=chatglm", EIGHT],
    ],
    ids=["adamw", "adamw8bit", "bf16", "chatglm"],
)
def test_killed_and_resumed_equals_undisturbed(
    recipe: Path, tmp_path: Path, overrides: list[str]
) -> None:
    if "model=CHATGLM" in overrides:
        base = converted_base(tmp_path / "chatglm")
        overrides = [each.replace("CHATGLM", str(base)) for each in overrides]
    settings = [*FULL, *overrides]
    assert train_in_process(recipe, settings) == 0
    settings = [f"output={tmp_path / 'other'}", *settings]
    assert train_in_process(recipe, settings, kill="after 5") == -signal.SIGKILL
    assert train_in_process(recipe, settings, resume=True) == 0
    assert_equal_runs(tmp_path / "adapter", tmp_path / "other")


def test_moments_are_kept_in_eight_bits(recipe: Path) -> None:
    output = trained(recipe, EIGHT)
    path = output.with_name("adapter.run") / "checkpoint-6" / "state.pt"
    state: Any = torch.load(path, weights_only=True)
    for name, moments in state["optimizer"].items():
        large = state["weights"][name].numel() >= 4096
        assert moments["state1"].dtype == (torch.uint8 if large else torch.float32)
        assert moments["step"] == 6


RUN = [*FULL, "optim.steps=12", "optim.lr=3e-4", "save_every=6"]


@pytest.mark.parametrize(
    ("family", "parallel", "overrides"),
    [
        ("llama3", "ddp", []),
        ("llama3", "fsdp", ["gradient_checkpointing=true", "optim.micro_batch=1"]),
        ("llama3-tied", "fsdp", []),
        ("qwen3", "ddp", []),
        ("llama3", "ddp", [EIGHT]),
        ("llama3", "fsdp", ["full={targets: [mlp, embed]}"]),
    ],
)
def test_two_processes_equal_one(
    recipe: Path, tmp_path: Path, family: str, parallel: str, overrides: list[str]
) -> None:
    base = write_family(family, tmp_path / "base")
    settings = [f"model={base}", "template=null", *RUN, *overrides]
    for name, processes, more in (("one", 1, []), ("two", 2, [f"parallel={parallel}"])):
        named = [f"output={tmp_path / name}", *more]
        ended = torchrun(recipe, *settings, *named, processes=processes)
        assert ended.returncode == 0, ended.stderr
        assert ended.stdout.count("model written to") == 1
    # moments of 8 bits take other steps where a gradient's last bit tips a rounding
    assert furthest(tmp_path / "one", tmp_path / "two") <= (1e-4 if EIGHT in overrides else 2e-5)
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=1e-3)
    if parallel == "fsdp":
        goes_on_alone(recipe, tmp_path, settings)


def goes_on_alone(recipe: Path, tmp_path: Path, settings: list[str]) -> None:
    """What two processes began one ends, from the checkpoint in the middle."""
    shutil.copytree(tmp_path / "two.run", tmp_path / "moved.run")
    shutil.rmtree(tmp_path / "moved.run" / "checkpoint-12")
    ended = torchrun(recipe, *settings, f"output={tmp_path / 'moved'}", "--resume", processes=1)
    assert "checkpoint-6" in ended.stdout
    assert furthest(tmp_path / "one", tmp_path / "moved") <= 2e-5


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["full.targets=[no_such]"], "full.targets: 'no_such' is in no parameter's name"),
        (["full.targets=['(']"], "'(' is no regular expression"),
        (["parallel=fsdp", EIGHT], "which adamw8bit cannot: use full.optimizer=adamw"),
        (["lora={}"], "exactly one of the sections lora, adalora, prefix, full"),
        (["full.optimizer=sgd"], "full.optimizer"),
    ],
)
def test_what_cannot_be_done_is_refused(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    overrides: list[str], message: str,
) -> None:  # fmt: skip
    assert train(["--config", str(recipe), *FULL, *overrides]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "adapter").exists()


def test_experts_that_could_not_be_written_back_are_refused_and_the_rest_trains(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = write_family("qwen3-moe", tmp_path / "base")
    settings = ["--config", str(recipe), *FULL, f"model={base}", "template=null"]
    assert train(settings) == 2
    assert "name in full.targets what is to train" in capsys.readouterr().err
    assert train([*settings, "full.targets=[self_attn, embed_tokens, lm_head, norm]"]) == 0
