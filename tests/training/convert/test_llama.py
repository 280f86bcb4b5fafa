import json
import tracemalloc
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from tests.models import edit_json, weights
from tests.training.convert.llama_release import logits, write_release
from training.convert.__main__ import main
from training.convert.meta.conversion import convert_llama
from training.convert.meta.params import read_params
from training.errors import TrainingError

VOCAB = 4140
TOKENS = torch.tensor([1, 17, 300, 5, 4000, 8, 8, 1234, 99])


@pytest.fixture(scope="session")
def spm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sentencepiece model with VOCAB tokens."""
    from training.demo.base import train_sentencepiece

    path = tmp_path_factory.mktemp("release") / "tokenizer.model"
    train_sentencepiece(["感冒了怎么办？多喝水。" * 3, "hello world 12345"], VOCAB, path)
    return path


def random_llama(dtype: torch.dtype = torch.float32, **config: Any) -> LlamaForCausalLM:
    """A LLaMA with norms that are not all one, so that mixing them up would show."""
    torch.manual_seed(3)
    sizes = {"vocab_size": VOCAB, "hidden_size": 64, "num_hidden_layers": 2}
    sizes |= {"intermediate_size": 176, "num_attention_heads": 4, "num_key_value_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(**(sizes | config)))
    for name, values in model.named_parameters():
        if "norm" in name:
            torch.nn.init.uniform_(values, 0.5, 1.5)
    return model.to(dtype).eval()


@pytest.mark.parametrize("files", [1, 2])
@pytest.mark.parametrize(
    ("config", "params"),
    [
        ({}, {}),
        ({"num_key_value_heads": 2, "rms_norm_eps": 1e-5}, {"n_kv_heads": 2}),
        ({"rope_theta": 1e6, "intermediate_size": 112}, {"ffn_dim_multiplier": 0.6}),
    ],
    ids=["llama1", "gqa", "rope_theta"],
)
def test_a_release_converts_back_bit_for_bit_and_computes_the_same(
    spm: Path, tmp_path: Path, files: int, config: dict[str, Any], params: dict[str, Any]
) -> None:
    model = random_llama(**config)
    if "rope_theta" in config:
        params = params | {"rope_theta": config["rope_theta"]}
    release = write_release(model, tmp_path / "7B", files, **params)
    convert_llama(release, spm, tmp_path / "out", max_shard_size=400_000)
    state, converted = model.state_dict(), weights(tmp_path / "out")
    assert converted.keys() == state.keys()
    assert all(torch.equal(values, state[name]) for name, values in converted.items())
    with torch.no_grad():
        expected = model(TOKENS[None]).logits[0]
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")(TOKENS[None]).logits[0]
    # the release's own computation proves that the writer follows the release's layout
    torch.testing.assert_close(logits(release, TOKENS), expected, rtol=0, atol=1e-4)
    assert torch.equal(loaded, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_dtype_is_kept(spm: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    model = random_llama(dtype)
    convert_llama(write_release(model, tmp_path / "7B", 2), spm, tmp_path / "out")
    state = model.state_dict()
    for name, values in weights(tmp_path / "out").items():
        assert values.dtype == dtype
        assert torch.equal(values, state[name])
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["dtype"] == str(dtype).removeprefix("torch.")


def test_the_directory_has_all_that_serving_needs(spm: Path, tmp_path: Path) -> None:
    release = write_release(random_llama(), tmp_path / "7B", 1)
    arguments = ["--input", release, "--tokenizer", spm, "--output", tmp_path / "out"]
    assert main(["llama", *map(str, arguments), "--max-shard-size", "1MB"]) == 0
    out = tmp_path / "out"
    tokenizer = AutoTokenizer.from_pretrained(out)
    rendered = tokenizer.apply_chat_template([{"role": "user", "content": "hello"}], tokenize=False)
    assert rendered == "<s>问：\nhello\n"
    assert len(tokenizer) == VOCAB
    assert tokenizer.model_max_length == 2048
    generation = json.loads((out / "generation_config.json").read_text())
    assert generation == {"bos_token_id": 1, "eos_token_id": 2}
    config = json.loads((out / "config.json").read_text())
    assert (config["bos_token_id"], config["eos_token_id"]) == (1, 2)
    assert config["max_position_embeddings"] == 2048
    told = json.loads((out / "provenance.json").read_text())
    assert told["base"] == {"name": "7B"}
    assert told["converted_from"] == "LLaMA release, 1 file(s)"
    for name, digest in told["files"].items():
        assert digest == sha256((out / name).read_bytes()).hexdigest()
    assert len(told["files"]) > 1


def test_template_and_context_can_be_chosen(spm: Path, tmp_path: Path) -> None:
    release = write_release(random_llama(), tmp_path / "7B", 1)
    template = tmp_path / "plain.jinja"
    template.write_text("{{ messages[0]['content'] }}")
    convert_llama(release, spm, tmp_path / "out", str(template), context=16384)
    assert (tmp_path / "out/chat_template.jinja").read_text() == template.read_text()
    assert (
        json.loads((tmp_path / "out/config.json").read_text())["max_position_embeddings"] == 16384
    )


RELEASED = {
    "7B": ({"dim": 4096, "multiple_of": 256, "n_heads": 32, "norm_eps": 1e-6}, 11008, 2048),
    "13B": ({"dim": 5120, "multiple_of": 256, "n_heads": 40, "norm_eps": 1e-6}, 13824, 2048),
    "30B": ({"dim": 6656, "multiple_of": 256, "n_heads": 52, "norm_eps": 1e-6}, 17920, 2048),
    "65B": ({"dim": 8192, "multiple_of": 256, "n_heads": 64, "norm_eps": 1e-5}, 22016, 2048),
    "2-7B": ({"dim": 4096, "multiple_of": 256, "n_heads": 32, "norm_eps": 1e-5}, 11008, 4096),
    "2-70B": (
        {"dim": 8192, "multiple_of": 4096, "n_heads": 64, "norm_eps": 1e-5, "n_kv_heads": 8}
        | {"ffn_dim_multiplier": 1.3},
        28672,
        4096,
    ),
}


@pytest.mark.parametrize(("given", "inner", "context"), RELEASED.values(), ids=RELEASED)
def test_sizes_of_the_known_releases(
    tmp_path: Path, given: dict[str, Any], inner: int, context: int
) -> None:
    path = tmp_path / "params.json"
    path.write_text(json.dumps({"n_layers": 32, "vocab_size": -1} | given))
    params = read_params(path)
    assert (params.inner, params.context, params.head_dim) == (inner, context, 128)
    assert params.vocab is None


def test_memory_does_not_grow_with_the_model(spm: Path, tmp_path: Path) -> None:
    """Of 120 MiB in two files, whose largest tensors have 32 MiB, a few chunks are held."""
    sizes = {"hidden_size": 1024, "intermediate_size": 16384, "num_hidden_layers": 1}
    release = write_release(
        random_llama(torch.float16, **sizes), tmp_path / "7B", 2, multiple_of=16384
    )
    tracemalloc.start()  # counts what is read and written: bytearrays
    try:
        convert_llama(release, spm, tmp_path / "out")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 24 * 2**20


def edit(release: Path, part: int, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    path = release / f"consolidated.{part:02d}.pth"
    tensors = torch.load(path)
    change(tensors)
    torch.save(tensors, path)


WK = "layers.1.attention.wk.weight"
FAULTS: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "no files": (
        lambda r: [p.rename(r / p.stem) for p in r.glob("*.pth")],
        ["no consolidated.NN.pth"],
    ),
    "first file missing": (
        lambda r: (r / "consolidated.00.pth").unlink(),
        ["lacks consolidated.00.pth"],
    ),
    "last file missing": (
        lambda r: (r / "consolidated.01.pth").unlink(),
        ["consolidated.00.pth is one of 2", "1 file(s) are there", "to consolidated.01.pth"],
    ),
    "file too many": (
        lambda r: (r / "consolidated.02.pth").write_bytes((r / "consolidated.01.pth").read_bytes()),
        ["is one of 2", "3 file(s) are there"],
    ),
    "tensor missing": (
        lambda r: edit(r, 1, lambda t: t.pop(WK)),
        ["consolidated.01.pth", f"lacks {WK}"],
    ),
    "tensor unknown": (
        lambda r: edit(r, 1, lambda t: t.update(extra=torch.ones(1))),
        ["consolidated.01.pth holds extra"],
    ),
    "wrong shape": (
        lambda r: edit(r, 1, lambda t: t.update({WK: t[WK][:-1].clone()})),
        ["consolidated.01.pth", WK, "[31, 64]", "[64, 64] over 2"],
    ),
    "mixed dtypes": (
        lambda r: edit(r, 1, lambda t: t.update({WK: t[WK].half()})),
        [WK, "F32", "F16", "consolidated.01.pth"],
    ),
    "norms differ": (
        lambda r: edit(r, 1, lambda t: t["norm.weight"].add_(1)),
        ["norm.weight differs between", "consolidated.00.pth", "consolidated.01.pth"],
    ),
    "no params": (lambda r: (r / "params.json").unlink(), ["params.json", "No such file"]),
    "size missing": (
        lambda r: (r / "params.json").write_text('{"dim": 64}'),
        ["params.json lacks", "n_heads"],
    ),
    "settings of LLaMA 3": (
        lambda r: edit_json(r / "params.json", use_scaled_rope=True),
        ["unknown settings ['use_scaled_rope']"],
    ),
    "size not a number": (lambda r: edit_json(r / "params.json", n_heads="4"), ["n_heads is '4'"]),
    "heads do not divide": (lambda r: edit_json(r / "params.json", n_heads=3), ["do not divide"]),
    "more files than key-value heads": (
        lambda r: edit_json(r / "params.json", n_kv_heads=1),
        ["1 key-value heads cannot be cut into 2"],
    ),
    "another width": (
        lambda r: edit_json(r / "params.json", multiple_of=512),
        ["feed_forward.w1.weight", "[512, 64] over 2"],
    ),
    "more layers than params.json": (
        lambda r: edit_json(r / "params.json", n_layers=1),
        ["layers.1.", "no LLaMA of 1 layers"],
    ),
    "another vocabulary": (
        lambda r: edit_json(r / "params.json", vocab_size=32000),
        ["tok_embeddings.weight", "[32000, 64]"],
    ),
}


@pytest.mark.parametrize(("spoil", "told"), FAULTS.values(), ids=FAULTS)
def test_a_faulty_release_is_refused_and_nothing_written(
    spm: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[Path], object],
    told: list[str],
) -> None:
    release = write_release(random_llama(), tmp_path / "7B", 2)
    spoil(release)
    arguments = ["--input", release, "--tokenizer", spm, "--output", tmp_path / "out"]
    assert main(["llama", *map(str, arguments)]) == 2
    printed = capsys.readouterr().err
    assert [part for part in told if part not in printed] == [], printed
    assert {path.name for path in tmp_path.iterdir()} == {"7B"}


def test_a_tokenizer_of_another_model_is_refused(spm: Path, tmp_path: Path) -> None:
    release = write_release(random_llama(vocab_size=VOCAB + 2), tmp_path / "7B", 2)
    with pytest.raises(TrainingError, match=f"{VOCAB} tokens, the embedding {VOCAB + 2} rows"):
        convert_llama(release, spm, tmp_path / "out")
    assert not (tmp_path / "out").exists()
