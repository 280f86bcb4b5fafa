"""Chat templates that come with mergeline, or from a file."""

from pathlib import Path

from training.errors import TrainingError
from training.files import read_text

TEMPLATES = Path(__file__).parents[1] / "templates"


def read_template(name: str) -> str:
    """The text of a template in training/templates, or of a .jinja file."""
    path = Path(name) if name.endswith(".jinja") else TEMPLATES / f"{name}.jinja"
    if not path.is_file():
        raise TrainingError(f"template {name!r}: no file {path} (known: {known_templates()})")
    return read_text(path)


def known_templates() -> str:
    """The names of those in training/templates, for a message."""
    return ", ".join(sorted(path.stem for path in TEMPLATES.glob("*.jinja")))
