"""What 4 bits cost the demo on rows that it was not calibrated on, and what GPTQ saves of that."""

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.models import weights
from tests.training.gptq.dequantised import decompressed, scheme_of, write_dequantised
from training.data.collate import Features, features
from training.data.formats import Layout
from training.data.rows import load_rows
from training.gptq.job import Calibration, calibrate
from training.gptq.rounding import best_scales
from training.rendering.conversation import Rendering
from training.rendering.tokenizer import load_tokenizer
from training.train.loss import AnswerLoss, answer_tokens

GROUP = 64
Weights = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def int4(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("demo") / "int4"
    data = Calibration(demo / "data" / "train.json", samples=512)
    calibrate(demo / "model", output, data, GROUP)
    return output


@pytest.fixture(scope="module")
def held_out(demo: Path) -> list[Features]:
    rendering = Rendering.of(load_tokenizer(demo / "model", None))
    rows = load_rows(demo / "data" / "dev.json", Layout())
    return [features(sample) for row in rows for sample in rendering.encode(row, 512)]


def nearest(model: Path, like: Path) -> Weights:
    """Each weight at the nearest of its steps, whose sizes lose least of the weights: no data."""
    exact = weights(model)
    made = {}
    for name in decompressed(like):
        scales = best_scales(exact[name], torch.ones(exact[name].shape[1]), GROUP)
        steps = scales.repeat_interleave(GROUP, dim=1)
        made[name] = (exact[name] / steps).round().clamp(-8, 7) * steps
    return made


@torch.no_grad()
def answers(model: Path, changed: Weights, rows: list[Features]) -> tuple[float, torch.Tensor]:
    """The evaluation loss, and logits [tokens, vocabulary], of a model with other weights."""
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    loaded.load_state_dict(changed, strict=False)
    loss = AnswerLoss(loaded, True, nullcontext)
    batches = [{name: torch.tensor([ids]) for name, ids in row.items()} for row in rows]
    total = sum(float(loss.total(batch)) for batch in batches)
    logits = [loaded(input_ids=batch["input_ids"]).logits[0] for batch in batches[:40]]
    return total / answer_tokens(rows), torch.cat(logits)


def test_gptq_loses_less_than_rounding_to_nearest(
    demo: Path, int4: Path, held_out: list[Features]
) -> None:
    model = demo / "model"
    assert scheme_of(int4).weights.group_size == GROUP
    whole, exact = answers(model, {}, held_out)
    ours, logits = answers(model, decompressed(int4), held_out)
    theirs, others = answers(model, nearest(model, int4), held_out)
    moved, moved_by_nearest = ((each - exact).norm() / exact.norm() for each in (logits, others))
    same = (logits.argmax(dim=1) == exact.argmax(dim=1)).double().mean()
    print(f"evaluation loss {whole:.4f}; int4 by GPTQ {ours:.4f}, to nearest {theirs:.4f}")
    print(f"logits move by {moved:.2%}, to nearest {moved_by_nearest:.2%}; same token {same:.1%}")
    assert whole < ours < theirs
    assert ours - whole < 0.8 * (theirs - whole)
    assert moved < 0.8 * moved_by_nearest
    assert same > 0.9


def test_the_directory_is_the_model_of_those_weights(
    demo: Path, int4: Path, held_out: list[Features], tmp_path: Path
) -> None:
    plain = write_dequantised(int4, tmp_path / "plain")
    _, logits = answers(demo / "model", decompressed(int4), held_out)
    assert torch.equal(answers(plain, {}, held_out)[1], logits)
