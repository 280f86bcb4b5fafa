"""Beam search on the real engine against transformers' `generate(num_beams=4)`."""

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.engine.tokenizers import continuation
from tests.families import write_family
from tests.models import tiny_adapter
from tests.reference import adapted
from tests.server import ServerProcess, serving
from training.rendering.conversation import encode_prompt

WIDTH = 4
TELL_OF_COMPILATIONS = {"TORCH_LOGS": "dynamo"}
COMPILES = "torchdynamo start tracing"
PROMPTS = [
    *("感冒了怎么办？", "the capital of France", "多喝水。" * 9, "1 + 1", "？", "发烧" * 30),
    *("头痛 and fever", "[Round 0]\n问：咳嗽\n答：", "x", "水喝多 怎么办 of the"),
]


class Reference:
    """transformers' beams for a prompt, as the text that the service would give for them."""

    def __init__(self, base: Path, adapter: Path) -> None:
        self._model, self._tokenizer = adapted(base, adapter)

    def beams(self, prompt: str, tokens: int, *, adapter: bool, **search: Any) -> list[list[int]]:
        """All of them, the best first, up to the token that ends each."""
        import torch

        given = torch.tensor([encode_prompt(self._tokenizer, prompt)])
        ends = [self._tokenizer.eos_token_id, *search.pop("stop_token_ids", [])]
        options = {"num_beams": WIDTH, "num_return_sequences": WIDTH, "early_stopping": False}
        with self._model.disable_adapter() if not adapter else torch.no_grad():
            out = self._model.generate(
                input_ids=given, attention_mask=torch.ones_like(given), max_new_tokens=tokens,
                do_sample=False, eos_token_id=ends, pad_token_id=ends[0], **options, **search,
            )  # fmt: skip
        rows = out[:, given.shape[1] :].tolist()
        return [list(itertools.takewhile(lambda token: token not in ends, row)) for row in rows]

    def text(self, prompt: str, ids: list[int]) -> str:
        prompt_ids = encode_prompt(self._tokenizer, prompt)
        return "".join(continuation(self._tokenizer, prompt_ids, ids, skip_special_tokens=True))


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a random LLaMA, base, and a LoRA adapter for it."""
    path = tmp_path_factory.mktemp("llama")
    base = write_family("llama3", path / "base")
    tiny_adapter(base, path / "adapter", std=0.2)
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (path / "adapter" / file).write_bytes((base / file).read_bytes())
    return path


@pytest.fixture(scope="module")
def random_server(llama: Path, logs: Path) -> Iterator[ServerProcess]:
    """Its log tells whenever torch compiles something."""
    named = f"lora={llama / 'adapter'}"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in TELL_OF_COMPILATIONS.items():
            patch.setenv(name, value)
        with serving(llama / "base", logs / "beams.log", adapters=named) as ready:
            yield ready


def test_the_first_request_for_logprobs_waits_for_no_compiler(random_server: ServerProcess) -> None:
    """As the log says: how many seconds it takes says more of the machine."""
    assert COMPILES in what_a_compilation_logs()
    random_server.generate("头痛", max_tokens=1, logprobs=1)
    assert COMPILES not in random_server.log.read_text()


def what_a_compilation_logs() -> str:
    code = "import torch; torch.compile(lambda x: x + 1, backend='eager')(torch.ones(1))"
    return subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | TELL_OF_COMPILATIONS, check=True, capture_output=True, text=True,
    ).stderr  # fmt: skip


def assert_equal(results: list[dict[str, Any]], expected: dict[str, Any], of: Reference) -> None:
    for (prompt, beams), result in zip(expected.items(), results, strict=True):
        served = [(o["generated_text"], o["num_output_tokens_cf"]) for o in result["outputs"]]
        ended = [output["finish_reason"] == "stop" for output in result["outputs"]]
        counts = [len(ids) + end for ids, end in zip(beams, ended, strict=True)]
        texts = [of.text(prompt, ids) for ids in beams]
        assert served == list(zip(texts, counts, strict=True)), prompt
        assert result["generated_text"] == texts[0]


@pytest.mark.parametrize("penalty", [1.0, 0.3])
@pytest.mark.parametrize("adapter", [None, "lora"])
def test_a_random_model_and_its_adapter(
    random_server: ServerProcess, llama: Path, adapter: str | None, penalty: float
) -> None:
    reference = Reference(llama / "base", llama / "adapter")
    search: dict[str, Any] = {"length_penalty": penalty, "stop_token_ids": [*range(40, 47)]}
    named = {} if adapter is None else {"adapter": adapter}
    asked = {"beam_width": WIDTH, "max_tokens": 12, **search, **named}
    results = random_server.generate(PROMPTS, **asked)["results"]
    expected = {p: reference.beams(p, 12, adapter=bool(adapter), **search) for p in PROMPTS}
    assert_equal(results, expected, reference)
    reasons = {output["finish_reason"] for result in results for output in result["outputs"]}
    assert reasons == {"stop", "length"}


@pytest.mark.parametrize("penalty", [1.0, 2.0])
def test_the_demo_model_whose_answers_end(
    server: ServerProcess, demo: Path, penalty: float
) -> None:
    rows = map(json.loads, (demo / "data/dev.json").read_text().split("\n")[:10])
    prompts = [row["input"] for row in rows]
    reference = Reference(demo / "base", demo / "adapter")
    search = {"length_penalty": penalty}
    results = server.generate(prompts, num_beams=WIDTH, max_tokens=16, **search)["results"]
    expected = {p: reference.beams(p, 16, adapter=True, **search) for p in prompts}
    assert_equal(results, expected, reference)


def test_its_other_names_mean_the_same_and_n_takes_the_best(random_server: ServerProcess) -> None:
    prompt = PROMPTS[0]
    whole = random_server.generate(prompt, beam_width=WIDTH, max_tokens=8)
    assert len({output["generated_text"] for output in whole["outputs"]}) == WIDTH
    for names in ({"num_beams": WIDTH}, {"use_beam_search": True, "best_of": WIDTH}):
        assert random_server.generate(prompt, max_tokens=8, **names)["outputs"] == whole["outputs"]
    best = random_server.generate(prompt, beam_width=WIDTH, n=1, max_tokens=8)
    assert "outputs" not in best
    assert best["generated_text"] == whole["generated_text"]
    assert best["usage"]["completion_tokens"] == 8


def test_alone_in_a_list_and_streamed_it_is_the_same(random_server: ServerProcess) -> None:
    asked = {"beam_width": WIDTH, "max_tokens": 8}
    together = random_server.generate(PROMPTS[:3], **asked)["results"]
    for prompt, result in zip(PROMPTS, together, strict=False):
        assert random_server.generate(prompt, **asked)["outputs"] == result["outputs"]
    body = {"prompt": PROMPTS[0], "parameters": asked, "stream": True}
    text = httpx.post(random_server.url + "/generate", json=body, timeout=60).text
    *deltas, end, done = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert done == "[DONE]"
    assert json.loads(end)["outputs"] == together[0]["outputs"]
    assert [json.loads(delta)["text"] for delta in deltas] == [
        output["generated_text"] for output in together[0]["outputs"]
    ]
