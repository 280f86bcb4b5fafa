"""No command of training ends in a traceback for anything in a file."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from tests.models import tiny_adapter, tiny_llama, to_bin
from tests.mutations.mutate import ends_well, mutated
from tests.training.conftest import write_recipe
from tests.training.convert import chatglm2_release, chatglm_release, llama_release
from tests.training.convert.gguf_file import write_gguf
from training.convert.__main__ import main as convert
from training.demo.base import train_sentencepiece
from training.gptq.__main__ import main as gptq
from training.merge.__main__ import main as merge
from training.train.__main__ import main as train

TOKENIZER = ["tokenizer.json", "tokenizer_config.json"]
MERGE = [
    *("base/config.json", "base/generation_config.json", "base/model.safetensors.index.json"),
    *("base/model-00001-of-00002.safetensors", *(f"base/{name}" for name in TOKENIZER)),
    *("lora/adapter_config.json", "lora/adapter_model.safetensors"),
    *("prefix/adapter_config.json", "prefix/adapter_model.safetensors"),
]
CONVERT = {
    "hf": [
        *("old/config.json", "old/pytorch_model.bin", "old/tokenizer.model"),
        *("old/tokenizer_config.json", "old/special_tokens_map.json", "old/added_tokens.json"),
    ],
    "chatglm": [
        *("chatglm/config.json", "chatglm/pytorch_model.bin.index.json"),
        *("chatglm/pytorch_model-00001-of-00002.bin", "chatglm/ice_text.model"),
        *("chatglm/tokenizer_config.json", "chatglm2/config.json", "chatglm2/tokenizer.model"),
        "chatglm2/pytorch_model.bin.index.json",
    ],
    "llama": ["llama/params.json", "llama/consolidated.00.pth", "old/tokenizer.model"],
    "gguf": ["tiny.gguf"],
}
TRAIN = [
    *("recipe.yaml", "train.json", "base/config.json", "base/generation_config.json"),
    *("base/model.safetensors.index.json", "base/model-00002-of-00002.safetensors"),
    *(f"base/{name}" for name in TOKENIZER),
]
GPTQ = [
    *("train.json", "wide/config.json", "wide/generation_config.json", "wide/model.safetensors"),
    *(f"wide/{name}" for name in TOKENIZER),
]
RESUME = [
    *("adapter.run/training.yaml", "adapter.run/inputs.json", "adapter.run/log.jsonl"),
    *(f"adapter.run/checkpoint-1/{name}" for name in ("state.pt", "sums.json")),
]


def examples(count: int) -> Callable[[Any], Any]:
    checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    return settings(
        max_examples=count, deadline=None, derandomize=True, suppress_health_check=checks
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    """One of everything that training reads, each tiny."""
    folder = tmp_path_factory.mktemp("files")
    torch.set_num_threads(1)
    base = tiny_llama(folder / "base", vocab_size=4140, max_shard_size="600KB")
    wide: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 2}
    tiny_llama(folder / "wide", vocab_size=4140, **wide)
    tokenizer.save_pretrained(base)
    tokenizer.save_pretrained(folder / "wide")
    tiny_adapter(base, folder / "lora", target_modules=["q_proj"], modules_to_save=["norm"])
    train_sentencepiece(["感冒了怎么办？多喝水。" * 3, "hello 12345"], 4125, folder / "spm.model")
    _write_old(folder)
    _write_releases(folder)
    _write_run(folder, base)
    return folder


def _write_old(folder: Path) -> None:
    to_bin(tiny_llama(folder / "old", vocab_size=4126))
    shutil.copy(folder / "spm.model", folder / "old/tokenizer.model")
    (folder / "old/tokenizer_config.json").write_text('{"eos_token": {"content": "</s>"}}')
    (folder / "old/special_tokens_map.json").write_text('{"pad_token": "[PAD]"}')
    (folder / "old/added_tokens.json").write_text('{"[PAD]": 4125}')


def _write_releases(folder: Path) -> None:
    chatglm_release.write_release(folder / "chatglm", files=2)
    chatglm2_release.write_release(folder / "chatglm2", "chatglm2")
    torch.manual_seed(0)
    sizes = {"vocab_size": 4125, "hidden_size": 64, "intermediate_size": 176}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 4, "num_hidden_layers": 1}
    model = LlamaForCausalLM(LlamaConfig(**sizes, **heads)).half()
    llama_release.write_release(model, folder / "llama", 1)
    write_gguf(model.float(), folder / "spm.model", folder / "tiny.gguf")


def _write_run(folder: Path, base: Path) -> None:
    recipe = write_recipe(folder, base)
    options = ["optim.steps=2", "save_every=1", "data.eval=null"]
    assert train(["--config", str(recipe), *options]) == 0
    shutil.rmtree(folder / "adapter.run/checkpoint-2")
    shutil.rmtree(folder / "adapter.run/tensorboard")
    prefix = [*options, "optim.steps=1", "lora=null", "prefix={tokens: 3}"]
    assert train(["--config", str(recipe), *prefix, f"output={folder}/prefix"]) == 0


def _without(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)


@examples(50)
@given(data=st.data())
@pytest.mark.parametrize("name", MERGE)
def test_merge(files: Path, tmp_path: Path, name: str, data: st.DataObject) -> None:
    path, output = files / name, tmp_path / "out"
    _without(output)
    adapter = files / ("prefix" if name.startswith("prefix") else "lora")
    arguments = ["--base", files / "base", "--adapter", adapter, "--output", output]
    ends_well(merge, arguments, path, data.draw(mutated(path.read_bytes())))


@examples(30)
@given(data=st.data())
@pytest.mark.parametrize(
    ("source", "name"), [(source, name) for source, names in CONVERT.items() for name in names]
)
def test_convert(files: Path, tmp_path: Path, source: str, name: str, data: st.DataObject) -> None:
    path, output = files / name, tmp_path / "out"
    _without(output)
    place = (
        files / "llama" if source == "llama" else path if path.suffix == ".gguf" else path.parent
    )
    arguments = [source, "--input", place, "--output", output]
    if source == "llama":
        arguments += ["--tokenizer", files / "old/tokenizer.model"]
    ends_well(convert, arguments, path, data.draw(mutated(path.read_bytes())))


@examples(25)
@given(data=st.data())
@pytest.mark.parametrize("name", TRAIN)
def test_train(files: Path, tmp_path: Path, name: str, data: st.DataObject) -> None:
    path = files / name
    for place in ("out", "out.run"):
        _without(tmp_path / place)
    arguments = [
        *("--config", files / "recipe.yaml", "optim.steps=1", "data.eval=null"),
        *(f"output={tmp_path}/out", f"model={files}/base", f"data.train={files}/train.json"),
    ]
    ends_well(train, arguments, path, data.draw(mutated(path.read_bytes())))


@examples(30)
@given(data=st.data())
@pytest.mark.parametrize("name", RESUME)
def test_resume(files: Path, tmp_path: Path, name: str, data: st.DataObject) -> None:
    content = data.draw(mutated((files / name).read_bytes()))
    for place in ("out", "out.run"):
        _without(tmp_path / place)
    shutil.copytree(files / "adapter.run", tmp_path / "out.run")
    arguments = [
        *("--config", files / "recipe.yaml", "optim.steps=2", "data.eval=null", "--resume"),
        *(f"output={tmp_path}/out", "save_every=1"),
    ]
    path = tmp_path / name.replace("adapter.run", "out.run")
    ends_well(train, arguments, path, content)


@examples(25)
@given(data=st.data())
@pytest.mark.parametrize("name", GPTQ)
def test_gptq(files: Path, tmp_path: Path, name: str, data: st.DataObject) -> None:
    path, output = files / name, tmp_path / "out"
    _without(output)
    arguments = [
        *("--model", files / "wide", "--output", output, "--data", files / "train.json"),
        *("--group-size", "32", "--samples", "4"),
    ]
    ends_well(gptq, arguments, path, data.draw(mutated(path.read_bytes())))
