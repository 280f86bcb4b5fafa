"""What makes vLLM read another model than the one that was trained, without a word."""

import json
from pathlib import Path

from service.model_directory.files import optional_json, read_json
from service.model_directory.thoughts import refuse_special_marks

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PIECES = ("Llama", "CodeLlama", "Gemma", "Mistral")  # classes that build sentencepiece's way
REMEDY = (
    "python -m training.convert hf --input {0} --output {0}-clean writes a directory that agrees"
)


def refuse_contradictions(directory: Path) -> None:
    """Raise ValueError where files of the model directory contradict each other."""
    read_json(directory / "config.json")
    _refuse_stale_index(directory)
    _refuse_other_tokenizer(directory)
    refuse_special_marks(directory)


def _refuse_stale_index(directory: Path) -> None:
    files = optional_json(directory / INDEX).get("weight_map")
    listed = set(map(str, files.values())) if isinstance(files, dict) else set()
    if (directory / SINGLE).is_file() and listed - {SINGLE}:
        raise ValueError(
            f"{directory} holds {SINGLE} and, from an earlier save, an index of other files,"
            f" which vLLM would load: remove {INDEX} and those files, or "
            + REMEDY.format(directory)
        )


def _refuse_other_tokenizer(directory: Path) -> None:
    named = str(optional_json(directory / "tokenizer_config.json").get("tokenizer_class"))
    if not named.startswith(PIECES):
        return
    tokenizer = optional_json(directory / "tokenizer.json")
    if '"ByteLevel"' in json.dumps([tokenizer.get("pre_tokenizer"), tokenizer.get("decoder")]):
        raise ValueError(
            f"{directory}: its tokenizer.json is byte-level, but tokenizer_config.json names"
            f" {named}, which would split texts otherwise than in training: "
            + REMEDY.format(directory)
        )
