import json
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.models import edit_json, tiny_llama, weights
from training.convert.__main__ import main
from training.convert.directory import convert_directory
from training.data.messages import Row
from training.demo.base import train_sentencepiece
from training.errors import TrainingError
from training.rendering.conversation import Rendering
from training.rendering.tokenizer import load_tokenizer

Tensors = dict[str, torch.Tensor]
TEXTS = ["hello world 12345", "感冒了怎么办？多喝水。", "  two  blanks\n\ttab", "naïve 🙂"]


def as_bins(base: Path, folder: Path, files: int) -> Path:
    """The model directory `base` as transformers wrote it once: pytorch_model*.bin."""
    state = weights(base)
    state["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    shutil.copytree(base, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    names = ["pytorch_model.bin"]
    if files > 1:
        names = [f"pytorch_model-{n + 1:05d}-of-{files:05d}.bin" for n in range(files)]
        places = {name: names[n % files] for n, name in enumerate(state)}
        index = {"metadata": {}, "weight_map": places}
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    for number, name in enumerate(names):
        torch.save(dict(list(state.items())[number::files]), folder / name)
    return folder


def assert_same(one: Tensors, other: Tensors) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(values, other[name]) for name, values in one.items())


@pytest.mark.parametrize("files", [1, 3])
def test_bin_files_become_the_same_weights_as_safetensors(
    base: Path, tmp_path: Path, files: int
) -> None:
    old = as_bins(base, tmp_path / "old", files)
    convert_directory(old, tmp_path / "out", max_shard_size=30_000)
    assert_same(weights(tmp_path / "out"), weights(base))
    assert len(list((tmp_path / "out").glob("*.safetensors"))) > 1
    assert not list((tmp_path / "out").glob("*.bin*"))
    ids = torch.arange(1, 20)[None]
    with torch.no_grad():
        logits = [
            AutoModelForCausalLM.from_pretrained(path)(ids).logits
            for path in (base, tmp_path / "out")
        ]
    assert torch.equal(*logits)
    told = json.loads((tmp_path / "out/provenance.json").read_text())
    assert (told["base"], told["converted_from"]) == ({"name": "old"}, "Hugging Face directory")
    for name, digest in told["files"].items():
        assert digest == sha256((tmp_path / "out" / name).read_bytes()).hexdigest()


def test_dtype_is_cast_in_weights_and_config(base: Path, tmp_path: Path) -> None:
    arguments = ["hf", "--input", str(base), "--output", str(tmp_path / "out")]
    assert main([*arguments, "--dtype", "float16"]) == 0
    expected = {name: values.half() for name, values in weights(base).items()}
    assert_same(weights(tmp_path / "out"), expected)
    assert json.loads((tmp_path / "out/config.json").read_text())["dtype"] == "float16"


@pytest.mark.parametrize("shared", [True, False])
def test_a_tied_head_is_left_out(tmp_path: Path, shared: bool) -> None:
    base = tiny_llama(tmp_path / "base", tie_word_embeddings=True)
    old = as_bins(base, tmp_path / "old", 1)
    state = torch.load(old / "pytorch_model.bin")
    rows = state["model.embed_tokens.weight"]
    state["lm_head.weight"] = rows if shared else rows.clone()
    torch.save(state, old / "pytorch_model.bin")
    report = convert_directory(old, tmp_path / "out")
    assert_same(weights(tmp_path / "out"), weights(base))
    assert any("lm_head.weight was left out" in note for note in report.notes)


def test_a_head_that_only_claims_to_be_tied_is_refused(tmp_path: Path) -> None:
    base = tiny_llama(tmp_path / "base")
    edit_json(base / "config.json", tie_word_embeddings=True)
    with pytest.raises(TrainingError, match=r"lm_head.weight differs from .*embed_tokens"):
        convert_directory(base, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_code_and_the_request_to_run_it_stay_behind(base: Path, tmp_path: Path) -> None:
    (base / "modeling_evil.py").write_text("raise SystemExit")
    edit_json(base / "config.json", auto_map={"AutoModel": "modeling_evil.Evil"})
    (base / "tokenizer_config.json").write_text('{"auto_map": {"AutoTokenizer": ["evil.E", null]}}')
    (base / "tokenizer.json").write_text('{"model": {"vocab": {"a": 0}}}')
    report = convert_directory(base, tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*.py"))
    for name in ("config.json", "tokenizer_config.json"):
        assert "auto_map" not in (tmp_path / "out" / name).read_text()
    assert sum("auto_map was dropped" in note for note in report.notes) == 2


@pytest.fixture(scope="session")
def spm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("spm") / "tokenizer.model"
    train_sentencepiece(["感冒了怎么办？多喝水。" * 3, "hello world 12345"], 4140, path)
    return path


def old_checkpoint(tmp_path: Path, spm: Path, config: dict[str, Any]) -> Path:
    """A directory with tokenizer.model and one added token, as Chinese-LLaMA-Alpaca has it."""
    old = tiny_llama(tmp_path / "old", vocab_size=4141)
    shutil.copyfile(spm, old / "tokenizer.model")
    (old / "added_tokens.json").write_text('{"[PAD]": 4140}')
    (old / "special_tokens_map.json").write_text('{"pad_token": "[PAD]", "bos_token": ""}')
    (old / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "Llama"} | config))
    return old


def test_tokenizer_json_is_made_from_tokenizer_model_and_added_tokens(
    spm: Path, tmp_path: Path
) -> None:
    from sentencepiece import SentencePieceProcessor

    template = "{{ bos_token + messages[0]['content'] }}"
    old = old_checkpoint(tmp_path, spm, {"chat_template": template, "model_max_length": 512})
    report = convert_directory(old, tmp_path / "out")
    assert "tokenizer.json was made from tokenizer.model" in report.notes
    tokenizer, reference = AutoTokenizer.from_pretrained(tmp_path / "out"), SentencePieceProcessor()
    reference.Load(str(spm))
    for text in TEXTS:
        assert tokenizer.encode(text, add_special_tokens=False) == reference.Encode(text)
    assert tokenizer.encode("hello[PAD]") == [1, *reference.Encode("hello"), 4140]
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token_id) == (
        "<s>", "</s>", 4140,
    )  # fmt: skip
    assert tokenizer.model_max_length == 512
    assert (tmp_path / "out/chat_template.jinja").read_text() == template
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert not names & {"tokenizer.model", "added_tokens.json", "special_tokens_map.json"}


def test_of_several_templates_the_default_one_is_kept(spm: Path, tmp_path: Path) -> None:
    several = [{"name": "tools", "template": "no"}, {"name": "default", "template": "yes"}]
    convert_directory(old_checkpoint(tmp_path, spm, {"chat_template": several}), tmp_path / "out")
    assert (tmp_path / "out/chat_template.jinja").read_text() == "yes"


def test_an_added_token_without_its_place_is_refused(spm: Path, tmp_path: Path) -> None:
    old = old_checkpoint(tmp_path, spm, {})
    (old / "added_tokens.json").write_text('{"[PAD]": 4139}')
    with pytest.raises(TrainingError, match=r"'\[PAD\]' has id 4139, but 4140 is the next"):
        convert_directory(old, tmp_path / "out")
    (old / "added_tokens.json").unlink()
    with pytest.raises(TrainingError, match=r"pad_token is '\[PAD\]', which tokenizer.model lacks"):
        convert_directory(old, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_named_template_replaces_the_own_one_and_none_is_told(base: Path, tmp_path: Path) -> None:
    (base / "tokenizer.json").write_text('{"model": {"vocab": {"a": 0}}}')
    report = convert_directory(base, tmp_path / "bare")
    assert any("no chat template" in note for note in report.notes)
    (base / "tokenizer_config.json").write_text('{"chat_template": "own"}')
    report = convert_directory(base, tmp_path / "own")
    assert not any("no chat template" in note for note in report.notes)
    convert_directory(base, tmp_path / "named", template="llama")
    assert "答：" in (tmp_path / "named/chat_template.jinja").read_text()
    written = json.loads((tmp_path / "named/tokenizer_config.json").read_text())
    assert written == {"tokenizer_class": "PreTrainedTokenizerFast"}


def test_an_unknown_template_and_missing_weights_leave_nothing_behind(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["hf", "--input", str(base), "--output", str(tmp_path / "out")]
    assert main([*arguments, "--template", "lama"]) == 2
    assert "template 'lama'" in capsys.readouterr().err
    (base / "model.safetensors").unlink()
    assert main(arguments) == 2
    assert str(base) in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


@pytest.mark.parametrize("arguments", [["--help"], ["llama", "--help"], ["hf", "--help"]])
def test_help_teaches_with_examples_and_without_torch(arguments: list[str]) -> None:
    code = f"""
import sys
from training.convert.__main__ import main
try:
    main({arguments!r})
finally:
    assert "torch" not in sys.modules and "transformers" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "example" in done.stdout
    assert "python -m training.convert" in done.stdout


def test_a_conversion_in_decapoda_s_way_ends_its_sentences(spm: Path, tmp_path: Path) -> None:
    """Its config.json counts from 0 and pads with -1, its tokenizer has no name for any token."""
    base = tiny_llama(tmp_path / "base", vocab_size=4140)
    shutil.copy(spm, base / "tokenizer.model")
    unnamed = {"bos_token": "", "eos_token": "", "unk_token": "", "model_max_length": 10**30}
    (base / "tokenizer_config.json").write_text(
        json.dumps(unnamed | {"tokenizer_class": "LLaMATokenizer"})
    )
    (base / "special_tokens_map.json").write_text("{}")
    ids = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": -1}
    edit_json(base / "config.json", **ids)
    (base / "generation_config.json").write_text(json.dumps({"_from_model_config": True, **ids}))
    report = convert_directory(base, tmp_path / "out", template="llama")
    for name in ("config.json", "generation_config.json"):
        config = json.loads((tmp_path / "out" / name).read_text())
        found = [config.get(key) for key in ids]
        assert found == [1, 2, None]
        assert any(f"in {name} did not fit the tokenizer" in note for note in report.notes)
    tokenizer = load_tokenizer(tmp_path / "out", None)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (1, 2)
    row = Row.of("问", "答", "here")
    [sample] = Rendering.of(tokenizer).encode(row, 64)
    assert (sample.prompt_ids[0], sample.answer_ids[-1]) == (1, 2)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"eos_token_id": 2}, {"eos_token_id": 2}),
        ({"eos_token_id": [5, 2]}, {"eos_token_id": [5, 2]}),
        ({"eos_token_id": 7}, {"eos_token_id": [2, 7]}),
        ({"eos_token_id": [7, 10**6]}, {"eos_token_id": [2, 7]}),
        ({"eos_token_id": 10**6, "pad_token_id": 10**6}, {"eos_token_id": 2, "pad_token_id": None}),
        ({"eos_token_id": None, "pad_token_id": 3}, {"eos_token_id": None, "pad_token_id": 3}),
        ({"bos_token_id": 9, "eos_token_id": 1}, {"bos_token_id": 1, "eos_token_id": 2}),
        ({"bos_token_id": [9], "pad_token_id": [0]}, {"bos_token_id": [9], "pad_token_id": [0]}),
    ],
)
def test_ids_follow_the_tokenizer_and_further_ends_stay(
    spm: Path, tmp_path: Path, before: dict[str, Any], after: dict[str, Any]
) -> None:
    base = tiny_llama(tmp_path / "base", vocab_size=4140)
    shutil.copy(spm, base / "tokenizer.model")
    config = json.loads((base / "config.json").read_text())
    for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
        config.pop(key, None)
    (base / "config.json").write_text(json.dumps(config | before))
    convert_directory(base, tmp_path / "out", template="llama")
    written = json.loads((tmp_path / "out/config.json").read_text())
    assert {key: written[key] for key in after} == after
