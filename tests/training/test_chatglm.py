"""ChatGLM-6B in transformers: the 2023 code's tokens, batches, training."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tests.chatglm import GOLDEN, Row, converted_base, golden_rows
from training.chatglm.prefix import Prefix

TOKENS = 24


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return converted_base(tmp_path_factory.mktemp("chatglm") / "base")


@pytest.fixture(params=["base", "ptuning", "lora", "merged"])
def variant(request: pytest.FixtureRequest, base: Path) -> tuple[Any, list[Row]]:
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if request.param == "ptuning":
        prefix = Prefix(8, 4, 4, 32)
        state = load_file(GOLDEN / "ptuning/prefix_encoder.safetensors")
        prefix.embedding.weight.data = state["transformer.prefix_encoder.embedding.weight"]
        model.transformer.prefix = prefix
    elif request.param != "base":  # the adapter is in the form that the 2023 code's peft wrote
        model = PeftModel.from_pretrained(model, GOLDEN / "lora_adapter")
        model = model.merge_and_unload() if request.param == "merged" else model
    return model.eval(), golden_rows("lora" if request.param == "merged" else request.param)


def generate(model: Any, rows: list[list[int]]) -> list[list[int]]:
    """Greedy ids of all rows in one batch, padded on the left."""
    longest = max(map(len, rows))
    ids = torch.tensor([[3] * (longest - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    ends = {"eos_token_id": None, "pad_token_id": 3, "do_sample": False}
    out = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=TOKENS, **ends)
    return out[:, longest:].tolist()  # type: ignore[no-any-return]


@torch.no_grad()
def test_golden_ids_and_logits_alone_and_in_a_batch(variant: tuple[Any, list[Row]]) -> None:
    model, rows = variant
    for row in rows:
        logits = model(input_ids=torch.tensor([row.input_ids])).logits[0, -1]
        assert float((logits - torch.tensor(row.logits)).abs().max()) <= 5e-3
        assert generate(model, [row.input_ids]) == [row.greedy_ids]
    together = generate(model, [row.input_ids for row in rows])
    assert together == [row.greedy_ids for row in rows]


def test_several_masks_in_the_text_are_placed_as_the_original_placed_them(base: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    rows = golden_rows("edge")
    assert generate(model, [row.input_ids for row in rows]) == [row.greedy_ids for row in rows]


def test_right_padding_changes_no_loss_and_checkpointing_no_gradient(base: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).train()
    rows = [row.input_ids + row.greedy_ids for row in golden_rows("base")[1:4]]
    longest = max(map(len, rows))
    ids = torch.tensor([row + [3] * (longest - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    for number, row in enumerate(rows):
        alone = model(input_ids=torch.tensor([row])).logits[0]
        padded = model(input_ids=ids, attention_mask=mask).logits[number, : len(row)]
        assert float((alone - padded).detach().abs().max()) < 1e-4
    gradients = []
    for recompute in (False, True):
        if recompute:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model.zero_grad()
        model(input_ids=ids, attention_mask=mask, labels=ids).loss.backward()
        weight = model.transformer.layers[0].attention.query_key_value.weight
        gradients.append(weight.grad.clone())
    plain, recomputed = gradients
    assert torch.allclose(plain, recomputed, rtol=1e-5, atol=1e-7)


def test_a_row_without_sop_is_refused(base: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(base)
    with pytest.raises(ValueError, match="no <sop>"):
        model(input_ids=torch.tensor([[350, 351]]))


def test_half_precision_keeps_the_angles_of_the_published_model() -> None:
    from training.chatglm.modeling import rotary

    positions = torch.stack((torch.arange(326), torch.zeros(326, dtype=torch.long)))[None]
    exact = rotary(positions, 128, torch.float32)[0]
    half = rotary(positions, 128, torch.float16)[0].float()
    bf16 = rotary(positions, 128, torch.bfloat16)[0].float()
    assert float((exact - half).abs().max()) > 0.05  # the table really is computed in half
    assert float((bf16 - half).abs().max()) < 0.01  # bf16 only rounds its values
