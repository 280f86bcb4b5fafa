"""The formula of what a run holds, against what it really holds."""

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.chatglm import converted_base
from tests.families import write_family
from training.data.collate import pad
from training.merge.learnt_on.layers import build_class
from training.train.__main__ import main
from training.train.config import TrainConfig, load_config
from training.train.distributed import Processes
from training.train.loss import AnswerLoss, keeps_logits
from training.train.methods.adapters import add_adapter, trainable
from training.train.methods.memory import Need, estimate, report
from training.train.methods.optimizer import build_optimizer
from training.train.methods.quantised_base import prepare
from training.train.setup import autocast, load_base

WIDE = {"hidden_size": 256, "intermediate_size": 768, "head_dim": 64, "num_hidden_layers": 3}
FAMILIES = ["llama3", "llama3-tied", "qwen3", "glm4", "gemma2", "chatglm"]
LORA = "lora={dropout: 0}"
METHODS = [
    [LORA],
    ["lora={dropout: 0.1, dora: true, targets: [q_proj, query_key_value]}"],
    ["lora={modules_to_save: [lm_head]}"],
    ["adalora={tinit: 1, tfinal: 1, dropout: 0}"],
    [LORA, "precision=bf16"],
    [LORA, "quantization=nf4"],
    [LORA, "quantization=int8"],
    ["full={}"],
    ["full={targets: [mlp], optimizer: adamw8bit}", "precision=bf16"],
]
PREFIXES = [["prefix={tokens: 9}"], ["prefix={tokens: 9, projection: true, projection_size: 20}"]]


def base_of(family: str, folder: Path) -> Path:
    return converted_base(folder) if family == "chatglm" else write_family(family, folder, **WIDE)


def rows(base: Any, count: int) -> list[dict[str, list[int]]]:
    """Sixty-four tokens each, the last sixteen of them the answer."""
    prompt, answer = [5] * 48, [6] * 16
    if base.config.model_type == "chatglm_6b":
        prompt[-2:] = [base.config.gmask_token_id, base.config.bos_token_id]
    row = {"input_ids": prompt + answer, "labels": [-100] * 48 + answer}
    return [row] * count


def measured(config: TrainConfig) -> tuple[Need, Need]:
    """What the formula says, and the bytes of all that a step holds."""
    base = load_base(config)
    prepare(base, config, torch.device("cpu"))
    model = add_adapter(base, config, 100).train()
    samples = rows(base, config.optim.batch_size)
    processes = Processes(0, 1, torch.device("cpu"))
    storages: dict[int, Any] = {}
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage
        return tensor

    loss = AnswerLoss(model, keeps_logits(base), autocast(config, processes))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        total = loss.total(pad(samples, 0))
    torch.autograd.backward(total)
    parameters = [*trainable(model).values()]
    optimizer = build_optimizer(parameters, config)
    optimizer.step()
    moments = [v for state in optimizer.state.values() for k, v in state.items() if "map" not in k]
    real = Need(
        sum(p.nbytes for p in model.parameters()),
        sum(p.grad.nbytes for p in parameters if p.grad is not None),
        sum(v.nbytes for v in moments if isinstance(v, torch.Tensor) and v.ndim),
        sum(storage.nbytes() for storage in storages.values()),
    )
    return estimate(config, build_class(config.model), samples, 1), real


def saves_tied_head(family: str, method: list[str]) -> bool:
    """Which peft saves by another name than the formula counts it by."""
    tied = family in ("llama3-tied", "qwen3", "gemma2", "chatglm")
    return tied and "modules_to_save" in method[0]


@pytest.mark.parametrize(
    ("family", "method"),
    [each for each in product(FAMILIES, METHODS) if not saves_tied_head(*each)]
    + [(family, method) for family in ("llama3", "chatglm") for method in PREFIXES],
    ids=str,
)
def test_the_formula_is_what_a_step_holds(
    recipe: Path, tmp_path: Path, family: str, method: list[str]
) -> None:
    base = base_of(family, tmp_path / "base")
    told, real = measured(load_config(recipe, [f"model={base}", "lora=null", *method]))
    assert told.gradients == pytest.approx(real.gradients, rel=0.001)
    assert told.optimizer == pytest.approx(real.optimizer, rel=0.02)
    assert told.weights == pytest.approx(real.weights, rel=0.05)
    assert 0.5 < told.activations / real.activations < 2


def test_shares_of_processes_are_counted(recipe: Path, tmp_path: Path) -> None:
    base = write_family("llama3", tmp_path / "base", **WIDE)
    config = load_config(recipe, [f"model={base}", "lora=null", "full={}", "parallel=fsdp"])
    model = build_class(base)
    alone, shared = (estimate(config, model, rows(model, 4), world) for world in (1, 4))
    for name, value in vars(alone).items():
        assert getattr(shared, name) == pytest.approx(value / 4)


def test_what_does_not_fit_is_warned_about_and_goes_on(
    recipe: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "warning" not in report(Need(1e9, 0, 0, 0), 2.1e9, 2)
    assert "2.0 GB of 1.9 GB that are free\nwarning: by that" in report(
        Need(1e9, 0, 0, 0), 1.9e9, 2
    )
    monkeypatch.setattr("training.train.session.available_memory", lambda: 1e5)
    assert main(["--config", str(recipe)]) == 0
    out = capsys.readouterr().out
    assert "warning: by that formula this run does not fit" in out
    assert out.index("memory by formula") < out.index("trainable parameters")
