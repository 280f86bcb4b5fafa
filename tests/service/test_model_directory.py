"""A directory that vLLM would read wrongly is refused before anything is loaded."""

import json
from contextlib import nullcontext
from pathlib import Path

import pytest

from service.model_directory.contradictions import refuse_contradictions
from service.model_directory.hub import name_of
from service.model_directory.thoughts import MARKS


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"")
    (tmp_path / "tokenizer.json").write_text(json.dumps({"decoder": {"type": "ByteLevel"}}))
    refuse_contradictions(tmp_path)
    return tmp_path


def check(model: Path, words: str | None) -> None:
    """It is refused with these words; None: it is not."""
    with pytest.raises(ValueError, match=words) if words else nullcontext():
        refuse_contradictions(model)


@pytest.mark.parametrize(
    ("files", "refused"),
    [
        (["model.safetensors"], False),
        (["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"], True),
        (["model.safetensors", "more.safetensors"], True),
    ],
)
def test_a_whole_file_beside_an_index_of_others_is_refused(
    model: Path, files: list[str], refused: bool
) -> None:
    weight_map = {str(number): file for number, file in enumerate(files)}
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    check(model, r"remove model.safetensors.index.json .*convert hf" if refused else None)


@pytest.mark.parametrize("place", ["pre_tokenizer", "decoder"])
@pytest.mark.parametrize(
    ("named", "refused"),
    [
        *(("LlamaTokenizerFast", True), ("LlamaTokenizer", True), ("GemmaTokenizer", True)),
        *(("PreTrainedTokenizerFast", False), ("Qwen2Tokenizer", False), (None, False)),
    ],
)
def test_a_class_that_would_not_read_the_byte_level_tokenizer_is_refused(
    model: Path, place: str, named: str | None, refused: bool
) -> None:
    step = {"type": "Sequence", "parts": [{"type": "ByteLevel"}]}
    (model / "tokenizer.json").write_text(json.dumps({place: step}))
    (model / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": named}))
    check(model, f"names {named}, .*training.convert hf" if refused else None)


def test_a_sentencepiece_tokenizer_of_such_a_class_is_fine(model: Path) -> None:
    (model / "tokenizer.json").write_text(json.dumps({"decoder": {"type": "Metaspace"}}))
    (model / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer"}')
    refuse_contradictions(model)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json", "tokenizer.json"])
@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b"[" * 100_000, b'{"a":'])
def test_a_damaged_file_is_named(model: Path, name: str, content: bytes) -> None:
    (model / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer"}')
    (model / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} cannot be read as"):
        refuse_contradictions(model)


def test_a_model_of_a_hub_has_its_name_there(tmp_path: Path) -> None:
    assert name_of(Path("/c/hub/models--org--my-model/snapshots/0a1b")) == "my-model"
    modelscope = Path("/c/modelscope/models/org--my-model/snapshots/master")
    assert name_of(modelscope) == "my-model"
    for other in ("my--model", "snapshots/step-100", "a/snapshots/m"):
        assert name_of(tmp_path / other) == other.rpartition("/")[2]


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("place", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("marks", MARKS, ids=" ".join)
def test_thoughts_between_special_tokens_are_refused(
    model: Path, marks: tuple[str, str], place: str, special: bool
) -> None:
    """Texts would come without their marks: the thought would seem the answer."""
    template = [{"name": "default", "template": f"{{{{ '{marks[0]}' }}}} {marks[1]}"}]
    token = {"content": marks[1], "special": special}
    config: dict[str, object] = {"chat_template": template}
    tokenizer: dict[str, object] = {}
    if place == "tokenizer.json":
        tokenizer["added_tokens"] = [{"content": "<s>", "special": True}, token]
    else:
        config["added_tokens_decoder"] = {"7": token}
    (model / "tokenizer.json").write_text(json.dumps(tokenizer))
    (model / "tokenizer_config.json").write_text(json.dumps(config))
    check(model, r"is a special token.*\"special\" to false" if special else None)


def test_special_marks_that_no_template_uses_do_not_matter(model: Path) -> None:
    token = {"content": "</think>", "special": True}
    (model / "tokenizer.json").write_text(json.dumps({"added_tokens": [token, 3]}))
    check(model, None)
