"""The sampling parameters that go with every request: as text, or from a file."""

import json
from pathlib import Path
from typing import Any

from client.errors import InputError

EXPECTED = 'expected an object like {"max_tokens": 64}, or a file of JSON or YAML that holds one'


def read_parameters(text: str, adapter: str | None = None) -> dict[str, Any]:
    """The object that `text` is or names, with `adapter` in it. Raises InputError."""
    if text.lstrip().startswith(("{", "[")):
        parameters, where = _json(text), "--parameters"
    else:
        parameters, where = _file(Path(text)), f"--parameters {text}"
    if not isinstance(parameters, dict):
        raise InputError(f"{where}: {EXPECTED}")
    try:
        text = json.dumps(parameters, ensure_ascii=False, allow_nan=False)
        text.encode("utf-8")
    except (ValueError, TypeError, RecursionError) as problem:
        raise InputError(f"{where} cannot be sent as JSON: {problem}") from None
    sent: dict[str, Any] = json.loads(text)  # YAML has keys that are no strings: {50: -100}
    return sent | ({"adapter": adapter} if adapter else {})


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as problem:
        raise InputError(f"--parameters is not JSON: {problem}") from None


def _file(path: Path) -> Any:
    """JSON is YAML, too."""
    import yaml  # only where it is used: a run without such a file starts faster

    try:
        return yaml.safe_load(path.read_bytes())
    except OSError as problem:
        raise InputError(f"--parameters {path}: {problem.strerror}; {EXPECTED}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as problem:
        detail = " ".join(str(problem).split())
        raise InputError(f"--parameters {path} is neither JSON nor YAML: {detail}") from None
