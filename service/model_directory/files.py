"""JSON files of a model directory."""

import json
from pathlib import Path
from typing import Any


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file. Raises ValueError where there is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} cannot be read as a JSON object")
    return value


def optional_json(path: Path) -> dict[str, Any]:
    """The same; an empty one where there is no such file."""
    return read_json(path) if path.is_file() else {}
