from itertools import islice, repeat
from random import Random

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from training.demo.base import _losses


@pytest.mark.parametrize("used", [32, 20])
def test_most_steps_choose_among_the_used_tokens_alone(used: int) -> None:
    """That is the whole loss where every token is used, and less where some are not."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    documents = [list(range(used))]
    block = [Random(seed).sample(documents[0], used) for seed in range(4)]
    losses = [loss.item() for loss in islice(_losses(model, documents, repeat(block)), 11)]
    assert losses[0] == losses[10]
    assert losses[1] == pytest.approx(losses[0], rel=1e-6) if used == 32 else losses[1] < losses[0]
