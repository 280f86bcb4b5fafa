"""A packed batch is the padded batch without the padding: same loss, same gradients, no leaks."""

from contextlib import nullcontext
from typing import Any

import pytest
import torch

from training.data.collate import Batch, Features, collator, pack, pad
from training.train.distributed import Processes
from training.train.loss import AnswerLoss, evaluate, keeps_logits

SIZES = {
    **{"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0},
}
ROWS: list[Features] = [
    {
        "input_ids": [(7 * n + 3 * i) % 60 + 1 for i in range(length)],
        "labels": [-100] * (length - 2) + [9, 5 + n],
    }
    for n, length in enumerate([5, 11, 3, 8])
]


@pytest.fixture(params=["llama", "qwen3", "glm4"])
def model(request: pytest.FixtureRequest) -> Any:
    import transformers

    config = transformers.AutoConfig.for_model(request.param, **SIZES)
    torch.manual_seed(0)
    return transformers.AutoModelForCausalLM.from_config(config).float()


def loss_and_gradients(model: Any, batch: Batch) -> tuple[float, dict[str, torch.Tensor]]:
    model.zero_grad()
    loss = AnswerLoss(model, keeps_logits(model), nullcontext).total(batch)
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.item(), {name: p.grad.clone() for name, p in model.named_parameters()}


def test_loss_and_gradients_equal_those_of_the_padded_batch(model: Any) -> None:
    packed_loss, packed = loss_and_gradients(model, pack(ROWS))
    padded_loss, padded = loss_and_gradients(model, pad(ROWS, 0))
    assert abs(packed_loss - padded_loss) <= 1e-5
    for name, gradient in packed.items():
        assert (gradient - padded[name]).abs().max() <= 1e-5, name


def test_loss_is_that_of_every_sample_alone_by_transformers(model: Any) -> None:
    alone = 0.0
    for row in ROWS:
        inputs = {name: torch.tensor([values]) for name, values in row.items()}
        alone += 2 * model(**inputs).loss.item()  # the mean over two answer tokens
    assert loss_and_gradients(model, pack(ROWS))[0] == pytest.approx(alone, abs=1e-4)


def test_a_sample_sees_nothing_of_its_neighbours(model: Any) -> None:
    def last_logits(rows: list[Features], **change: Any) -> torch.Tensor:
        inputs = {**pack(rows), **change}
        del inputs["labels"]
        with torch.no_grad():
            logits: torch.Tensor = model(**inputs, use_cache=False).logits
        return logits[0, -8:]

    other = [{**ROWS[1], "input_ids": [2] * 11}, ROWS[3]]
    assert (last_logits(ROWS[1::2]) - last_logits(other)).abs().max() <= 1e-6
    ones = torch.ones(1, 19)  # what keeps them apart is the missing mask: this one lets them leak
    leak = last_logits(ROWS[1::2], attention_mask=ones) - last_logits(other, attention_mask=ones)
    assert leak.abs().max() > 1e-4


def test_models_without_logits_to_keep_give_the_same_loss(model: Any) -> None:
    assert keeps_logits(model)
    whole = AnswerLoss(model, False, nullcontext).total(pad(ROWS, 0))
    assert whole.item() == pytest.approx(loss_and_gradients(model, pad(ROWS, 0))[0], abs=1e-5)


@pytest.mark.parametrize("size", [1, 3, 4])
def test_evaluation_is_the_mean_over_all_answer_tokens(model: Any, size: int) -> None:
    mean = loss_and_gradients(model, pack(ROWS))[0] / 8
    one = Processes(0, 1, torch.device("cpu"))
    for batching in ("packed", "grouped"):
        loss = AnswerLoss(model, True, nullcontext)
        found = evaluate(loss, ROWS, collator(batching, 0), size, one)
        assert found == pytest.approx(mean, abs=1e-5)
    assert model.training
