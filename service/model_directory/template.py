"""The chat template in a directory of a model or of an adapter."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from service.model_directory.files import optional_json


def template_in(directory: Path) -> str:
    """The one that texts are rendered with, of several the default; "" where there is none."""
    path = directory / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    config = optional_json(directory / "tokenizer_config.json")
    return _default_of(config.get("chat_template") or "")


def _default_of(template: Any) -> str:
    """Of a text, or of several texts, each with a name."""
    named = {each.get("name"): each.get("template") for each in objects(template)}
    return str(named.get("default", "") if named else template)


def refuse_other_template(model: Path, adapter: Path) -> None:
    """Raise ValueError where prompts would be rendered otherwise than the adapter was trained."""
    trained = template_in(adapter).strip()
    if trained and trained != template_in(model).strip():
        raise ValueError(
            f"{adapter} was trained with another chat template than {model} has, and prompts would"
            f" be rendered by the model's: merge the adapter (python -m training.merge), or copy"
            f" its chat_template.jinja into {model}"
        )


def objects(value: Any) -> list[dict[str, Any]]:
    """The objects in a list, or among the members of an object; none in anything else."""
    each = value.values() if isinstance(value, dict) else value
    return [item for item in each if isinstance(item, dict)] if isinstance(each, Iterable) else []
