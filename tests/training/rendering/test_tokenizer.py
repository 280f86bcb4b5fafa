"""The tokenizer that training reads is the one that will be served."""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from tests.families import FAMILIES, write_family
from tests.models import edit_json, tiny_adapter
from training.data.messages import Row
from training.errors import TrainingError
from training.merge.job import merge
from training.model_directory.templates import read_template
from training.rendering.conversation import Rendering, encode_prompt
from training.rendering.tokenizer import PROBE, load_tokenizer


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("named", ["LlamaTokenizerFast", "GPT2Tokenizer", "Nonsense", None])
def test_the_ids_are_those_of_tokenizer_json_whatever_class_is_named(
    tmp_path: Path, family: str, named: str | None
) -> None:
    base = write_family(family, tmp_path / "base")
    edit_json(base / "tokenizer_config.json", tokenizer_class=named)
    raw = Tokenizer.from_file(str(base / "tokenizer.json"))
    tokenizer = load_tokenizer(base, None)
    for text in (PROBE, "hello world", "咽炎 不管它\n会怎样"):
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert ids == raw.encode(text, add_special_tokens=False).ids
    assert tokenizer.eos_token == FAMILIES[family].eos


def test_a_type_whose_class_splits_otherwise_is_refused(tmp_path: Path) -> None:
    base = write_family("qwen2", tmp_path / "base")
    edit_json(base / "tokenizer.json", normalizer=None)
    with pytest.raises(TrainingError, match="splits texts otherwise than Qwen2Tokenizer"):
        load_tokenizer(base, None)


def test_roles_that_only_the_config_knows_are_taken_by_their_ids(tmp_path: Path) -> None:
    """GPT-2's tokenizer_config.json names no token."""
    base = write_family("llama3", tmp_path / "base")
    config = json.loads((base / "tokenizer_config.json").read_text())
    for role in ("bos_token", "eos_token", "pad_token"):
        config.pop(role, None)
    (base / "tokenizer_config.json").write_text(json.dumps(config))
    (base / "special_tokens_map.json").unlink(missing_ok=True)
    tokenizer = load_tokenizer(base, None)
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|begin_of_text|>", "<|eot_id|>")
    edit_json(base / "config.json", eos_token_id=None)
    with pytest.raises(TrainingError, match="has no eos_token"):
        load_tokenizer(base, None)


@pytest.mark.parametrize("family", ["llama3", "qwen3", "mistral"])
def test_a_word_whose_id_the_config_names_stays_a_word(tmp_path: Path, family: str) -> None:
    """As BOS or EOS it would be cut out of every text that has it, whole or not."""
    base = write_family(family, tmp_path / "base")
    raw = Tokenizer.from_file(str(base / "tokenizer.json"))
    word = raw.encode("头痛 hello", add_special_tokens=False).ids[0]
    edit_json(base / "config.json", bos_token_id=word, eos_token_id=word)
    without = {"bos_token", "eos_token", "pad_token"}
    config = json.loads((base / "tokenizer_config.json").read_text())
    kept = {key: value for key, value in config.items() if key not in without}
    (base / "tokenizer_config.json").write_text(json.dumps(kept))
    with pytest.raises(TrainingError, match="has no eos_token"):
        load_tokenizer(base, None)
    merge(base, [tiny_adapter(base, tmp_path / "adapter")], tmp_path / "out")
    merged = PreTrainedTokenizerFast.from_pretrained(str(tmp_path / "out"))
    for text in (PROBE, "头痛 hello", "头 头痛hello 痛"):
        ids = merged.encode(text, add_special_tokens=False)
        assert ids == raw.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize(
    "template", ["{{ nothing.at.all }}", "{% if %}", "{{ raise_exception('no') }}"]
)
def test_a_template_that_fails_is_told(tmp_path: Path, template: str) -> None:
    base = write_family("llama3", tmp_path / "base")
    (tmp_path / "mine.jinja").write_text(template)
    tokenizer = load_tokenizer(base, str(tmp_path / "mine.jinja"))
    with pytest.raises(TrainingError, match="the chat template does not take this"):
        encode_prompt(tokenizer, "a")
    with pytest.raises(TrainingError, match="the chat template"):
        Rendering.of(tokenizer).encode(Row.of("a", "b", "here"), 64)


def test_a_template_file_is_utf_8_and_may_have_a_bom(tmp_path: Path) -> None:
    path = tmp_path / "mine.jinja"
    path.write_bytes(b"\xef\xbb\xbf{{ messages }}")
    assert read_template(str(path)) == "{{ messages }}"
    path.write_bytes(b"\xff")
    with pytest.raises(TrainingError, match=r"mine\.jinja is not UTF-8"):
        read_template(str(path))
