import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from sentencepiece import SentencePieceProcessor
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from tests.models import edit_json, weights
from tests.training.convert.gguf_file import write_gguf
from training.convert.__main__ import main
from training.convert.gguf.conversion import convert_gguf
from training.demo.base import train_sentencepiece

VOCAB = 4140


@pytest.fixture(scope="session")
def spm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("spm") / "tokenizer.model"
    train_sentencepiece(["感冒了怎么办？多喝水。" * 3, "hello world 12345"], VOCAB, path)
    return path


@pytest.fixture(scope="session")
def model() -> LlamaForCausalLM:
    torch.manual_seed(5)
    sizes = {"vocab_size": VOCAB, "hidden_size": 64, "num_hidden_layers": 2}
    sizes |= {"intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2}
    return LlamaForCausalLM(LlamaConfig(**sizes)).eval()


def test_unquantised_weights_come_back_bit_for_bit(model: Any, spm: Path, tmp_path: Path) -> None:
    source = write_gguf(model, spm, tmp_path / "tiny.gguf")
    report = convert_gguf(source, tmp_path / "out", dtype="float32", max_shard_size=1_200_000)
    state, converted = model.state_dict(), weights(tmp_path / "out")
    assert converted.keys() == state.keys()
    assert all(torch.equal(values, state[name]) for name, values in converted.items())
    ids = torch.arange(1, 20)[None]
    with torch.no_grad():
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")(ids).logits
        torch.testing.assert_close(loaded, model(ids).logits, rtol=0, atol=1e-5)
    files = sorted((tmp_path / "out").glob("*.safetensors"))
    assert (report.tensors, report.files) == (len(state), len(files))
    told = json.loads((tmp_path / "out/provenance.json").read_text())
    assert told["base"] == {"name": "tiny.gguf"}
    assert told["gguf_sha256"] == sha256(source.read_bytes()).hexdigest()
    assert told["files"] == {p.name: sha256(p.read_bytes()).hexdigest() for p in files}


def test_quantised_weights_are_as_near_as_their_blocks_allow(
    model: Any, spm: Path, tmp_path: Path
) -> None:
    source = write_gguf(model, spm, tmp_path / "tiny.Q8_0.gguf", "Q8_0")
    arguments = ["gguf", "--input", str(source), "--output", str(tmp_path / "out")]
    assert main(arguments) == 0
    state = model.state_dict()
    for name, values in weights(tmp_path / "out").items():
        assert values.dtype == torch.float16
        step = state[name].abs().max() / 127
        torch.testing.assert_close(values.float(), state[name], rtol=0.001, atol=0.51 * float(step))
    assert json.loads((tmp_path / "out/config.json").read_text())["dtype"] == "float16"


def test_the_tokenizer_is_that_of_the_file(model: Any, spm: Path, tmp_path: Path) -> None:
    source = write_gguf(model, spm, tmp_path / "tiny.gguf", chat_template="{{ 'own' }}")
    convert_gguf(source, tmp_path / "out")
    tokenizer, reference = AutoTokenizer.from_pretrained(tmp_path / "out"), SentencePieceProcessor()
    reference.Load(str(spm))
    for text in ["hello world 12345", "感冒了怎么办？", "  two  blanks\n\ttab", "naïve 🙂"]:
        assert tokenizer.encode(text) == [1, *reference.Encode(text)]
    assert tokenizer.model_max_length == model.config.max_position_embeddings
    assert (tmp_path / "out/chat_template.jinja").read_text() == "{{ 'own' }}"


def test_a_named_template_replaces_that_of_the_file(model: Any, spm: Path, tmp_path: Path) -> None:
    source = write_gguf(model, spm, tmp_path / "tiny.gguf", chat_template="{{ 'own' }}")
    convert_gguf(source, tmp_path / "out", template="llama")
    assert "答：" in (tmp_path / "out/chat_template.jinja").read_text()


def test_what_lies_beside_the_file_is_not_heeded(model: Any, spm: Path, tmp_path: Path) -> None:
    folder = tmp_path / "downloads"
    folder.mkdir()
    source = write_gguf(model, spm, folder / "tiny.gguf")
    for name in ("config.json", "adapter_config.json", "generation_config.json"):
        (folder / name).write_text("{}")
        edit_json(folder / name, model_type="bert", base_model_name_or_path="elsewhere")
    convert_gguf(source, tmp_path / "out", dtype="float32")
    assert json.loads((tmp_path / "out/config.json").read_text())["model_type"] == "llama"


def test_values_that_the_dtype_cannot_hold_are_refused(
    spm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = {"vocab_size": VOCAB, "hidden_size": 64, "num_hidden_layers": 1}
    large = LlamaForCausalLM(LlamaConfig(**sizes, intermediate_size=96, num_attention_heads=4))
    torch.nn.init.constant_(large.lm_head.weight, 1e5)
    source = write_gguf(large, spm, tmp_path / "tiny.gguf")
    arguments = ["gguf", "--input", str(source), "--output", str(tmp_path / "out")]
    assert main(arguments) == 2
    assert "lm_head.weight overflows float16" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main([*arguments, "--dtype", "bfloat16"]) == 0


def test_files_that_are_not_whole_are_refused_with_the_remedy(
    model: Any, spm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(source: Path) -> str:
        assert main(["gguf", "--input", str(source), "--output", str(tmp_path / "out")]) == 2
        assert not (tmp_path / "out").exists()
        return capsys.readouterr().err

    assert "cannot read" in refused(tmp_path / "none.gguf")
    whole = write_gguf(model, spm, tmp_path / "tiny.gguf")
    part = tmp_path / "tiny-00001-of-00002.gguf"
    part.write_bytes(whole.read_bytes())
    assert "gguf-split --merge" in refused(part)
    content = whole.read_bytes()
    for size in (100, 20_000, len(content) - 1000):
        whole.write_bytes(content[:size])
        assert "cannot read it" in refused(whole)
    whole.write_bytes(b"PK" * 100)
    assert "not a GGUF file" in refused(whole)
