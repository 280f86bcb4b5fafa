"""Beam search finds what transformers' own finds, by its rules, for the same probabilities."""

import asyncio
import itertools
from collections.abc import AsyncGenerator
from types import SimpleNamespace
from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from service.engine.protocol import Completion, GenerationRequest, Position, Step, TokenLogprob
from service.generation.beams import BeamSearch
from tests.models import tiny_llama

VOCABULARY = 64
PROMPTS = [[1, *(3 + 7 * i + j * j for j in range(i % 5 + 2))] for i in range(4)]


class TransformersEngine:
    """Answers a beam's request for its likeliest next tokens with a transformers model."""

    def __init__(self, model: Any, ends: frozenset[int]) -> None:
        words = Tokenizer(WordLevel({f"{i}": i for i in range(VOCABULARY)}, unk_token="0"))
        self.tokenizer = SimpleNamespace(backend_tokenizer=words)
        self.eos_token_ids = ends
        self._model = model

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Step]:
        import torch

        with torch.no_grad():
            logits = self._model(torch.tensor([request.prompt_ids])).logits[0, -1]
        best = logits.log_softmax(-1).topk(request.sampling["logprobs"])
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        top = [TokenLogprob(i, "", logprob) for i, logprob in pairs]
        yield Step([Completion(0, "", 1, "length", [Position(top[0], top)])])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Sure of its next tokens now and then, as a trained model is: that makes beams end early."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    path = tiny_llama(tmp_path_factory.mktemp("llama"), initializer_range=0.4)
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()


def found(model: Any, prompt: list[int], ends: frozenset[int], **search: Any) -> list[list[int]]:
    """Token ids of all beams, the best first; without the token that ended them."""
    sampling = {"max_tokens": search["max_tokens"]}
    request = GenerationRequest("beams", prompt, sampling)
    width, penalty = search["width"], search["penalty"]
    engine: Any = TransformersEngine(model, ends)
    beams = asyncio.run(BeamSearch(engine, request, width, penalty).run())
    assert len(beams) == width
    ids = [[int(word) for word in beam.text.split()] for beam in beams]
    for one, beam in zip(ids, beams, strict=True):
        assert beam.token_count == len(one) + (beam.finish_reason == "stop")
    return ids


def expected(model: Any, prompt: list[int], ends: frozenset[int], **search: Any) -> list[list[int]]:
    import torch

    given = torch.tensor([prompt])
    width = search["width"]
    out = model.generate(
        input_ids=given,
        attention_mask=torch.ones_like(given),
        **{"num_beams": width, "num_return_sequences": width, "do_sample": False},
        **{"length_penalty": search["penalty"], "max_new_tokens": search["max_tokens"]},
        **{"early_stopping": False, "eos_token_id": sorted(ends) or None, "pad_token_id": 0},
    )
    return [_until(row, ends) for row in out[:, len(prompt) :].tolist()]


def _until(ids: list[int], ends: frozenset[int]) -> list[int]:
    return list(itertools.takewhile(lambda token: token not in ends, ids))


@pytest.mark.parametrize("ends", [frozenset[int](), frozenset({2}), frozenset({2, 9, 17, 30, 51})])
@pytest.mark.parametrize("penalty", [1.0, 2.5, -1.0])
@pytest.mark.parametrize(("width", "max_tokens"), [(4, 12), (4, 1), (7, 9)])
def test_all_beams_are_those_of_transformers_in_their_order(
    model: Any, ends: frozenset[int], penalty: float, width: int, max_tokens: int
) -> None:
    search = {"penalty": penalty, "width": width, "max_tokens": max_tokens}
    for prompt in PROMPTS:
        assert found(model, prompt, ends, **search) == expected(model, prompt, ends, **search)


def test_some_beams_end_before_their_length_and_some_do_not(model: Any) -> None:
    """Or the test above would tell little."""
    ends = frozenset({2, 9, 17, 30, 51})
    lengths = [
        len(ids)
        for prompt in PROMPTS
        for ids in found(model, prompt, ends, penalty=1.0, width=4, max_tokens=12)
    ]
    assert 12 in lengths
    assert min(lengths) < 11


def test_more_ends_can_be_asked_for_and_none(model: Any) -> None:
    engine: Any = TransformersEngine(model, frozenset({2}))
    for sampling, ends in (
        ({"stop_token_ids": [9, 17]}, frozenset({2, 9, 17})),
        ({"ignore_eos": True}, frozenset[int]()),
        ({"ignore_eos": True, "stop_token_ids": [9]}, frozenset({9})),
    ):
        for prompt in PROMPTS:
            request = GenerationRequest("beams", prompt, {"max_tokens": 8, **sampling})
            beams = asyncio.run(BeamSearch(engine, request, 4, 1.0).run())
            ids = [[int(word) for word in beam.text.split()] for beam in beams]
            assert ids == expected(model, prompt, ends, penalty=1.0, width=4, max_tokens=8)
