"""The marks that a model's chat template puts around thoughts."""

from pathlib import Path
from typing import Any

from service.model_directory.files import optional_json
from service.model_directory.template import objects, template_in

MARKS = (
    ("<think>", "</think>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
)
"""What stands around a thought; training looks for the same ones."""


def marks_in(template: str) -> tuple[str, str] | None:
    """The marks that a template speaks of."""
    return next((pair for pair in MARKS if pair[1] in template), None)


def marks_of(directory: Path) -> tuple[str, str] | None:
    """Those of a model directory's template; None: the model knows no thoughts."""
    return marks_in(template_in(directory))


def refuse_special_marks(directory: Path) -> None:
    """Raise ValueError where texts would lose the marks, so that thoughts would seem answers."""
    marks = marks_of(directory) or ()
    special = _special(optional_json(directory / "tokenizer.json").get("added_tokens"))
    config = optional_json(directory / "tokenizer_config.json")
    special |= _special(config.get("added_tokens_decoder"))
    for mark in marks:
        if mark in special:
            raise ValueError(
                f"{directory}: {mark!r}, which ends or begins thoughts, is a special token, and"
                ' those are left out of texts: set "special" to false for it in tokenizer.json and'
                " tokenizer_config.json (training.train does so in what it writes)"
            )


def _special(tokens: Any) -> set[str]:
    return {str(token.get("content")) for token in objects(tokens) if token.get("special")}
