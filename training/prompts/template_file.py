"""The user's template file: for each task, texts that ask and the form of the answer."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import yaml
from jinja2 import StrictUndefined, Template, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from training.data.formats import Fields
from training.data.rows import TASK
from training.errors import TrainingError
from training.files import ODD_VALUES, read_text

ANY = "default"
"""The task whose templates rows of all others get."""


class _Task(BaseModel):
    model_config = ConfigDict(extra="forbid")
    prompts: list[str] = Field(min_length=1)
    answer: str = ""


TASKS: TypeAdapter[dict[str, _Task]] = TypeAdapter(dict[str, _Task])


@dataclass(frozen=True)
class TaskTemplates:
    """Templates of one task, compiled."""

    name: str
    prompts: Sequence[Template]
    answer: Template

    def fill(self, row: Fields, count: int, seed: str) -> Iterator[tuple[str, str]]:
        """Up to `count` prompts from different templates, each with the answer; "" where none is.

        Raises ValueError for what a template needs and `row` does not have.
        """
        drawn = Random(seed).sample(range(len(self.prompts)), min(count, len(self.prompts)))
        for number in drawn:
            place, shuffled = f"{self.name}.prompts.{number}", _Shuffle(f"{seed} {number}")
            prompt = _render(self.prompts[number], row, shuffled, place)
            if not prompt.strip():
                raise ValueError(f"{place} gives an empty prompt")
            yield prompt, _render(self.answer, row, shuffled, f"{self.name}.answer")


@dataclass(frozen=True)
class TemplateFile:
    """All tasks of a file."""

    path: Path
    tasks: Mapping[str, TaskTemplates]

    @classmethod
    def read(cls, path: Path) -> "TemplateFile":
        """Compile the templates in YAML. Raises TrainingError with the place of what is wrong."""
        try:
            tasks = TASKS.validate_python(yaml.safe_load(read_text(path)))
        except yaml.YAMLError as error:
            raise TrainingError(f"{path} is no YAML: {error}") from error
        except ValidationError as error:
            detail = error.errors()[0]
            place = ".".join(map(str, detail["loc"])) or "the file"
            raise TrainingError(
                f"{path}: {place}: {detail['msg']} (it maps names of tasks to prompts, a list of"
                " texts, and answer, a text)"
            ) from error
        return cls(path, {name: _compiled(path, name, task) for name, task in tasks.items()})

    def fill(self, row: Fields, count: int, seed: str) -> list[tuple[str, str]]:
        """Prompts and answers of a row, by the templates of its task.

        Which templates, and what `shuffled` does in them, follows from `seed` alone.
        Raises ValueError where there are none, or where they need what `row` does not have.
        """
        task = row.get(TASK, ANY)
        found = self.tasks.get(str(task)) or self.tasks.get(ANY)
        if found is None:
            known = ", ".join(self.tasks)
            raise ValueError(
                f"no templates for {task} in {self.path} (it has {known}); those of {ANY!r} would"
                " do for every task"
            )
        return [*found.fill(row, count, seed)]


ENVIRONMENT = ImmutableSandboxedEnvironment(
    undefined=StrictUndefined, keep_trailing_newline=True, trim_blocks=True, lstrip_blocks=True
)


def _compiled(path: Path, name: str, task: _Task) -> TaskTemplates:
    def template(text: str, place: str) -> Template:
        try:
            return ENVIRONMENT.from_string(text)
        except TemplateError as error:
            raise TrainingError(f"{path}: {name}.{place}: {error}") from error

    prompts = [template(text, f"prompts.{number}") for number, text in enumerate(task.prompts)]
    return TaskTemplates(name, prompts, template(task.answer, "answer"))


class _Shuffle:
    """`shuffled(labels)`: the same order wherever prompt and answer of a sample ask for it."""

    def __init__(self, seed: str) -> None:
        self._seed = seed

    def __call__(self, values: Sequence[Any]) -> list[Any]:
        return Random(self._seed).sample(list(values), len(values))


def _render(template: Template, row: Fields, shuffled: _Shuffle, place: str) -> str:
    try:
        return template.render(row, shuffled=shuffled)
    except (TemplateError, *ODD_VALUES) as error:
        raise ValueError(f"{place}: {error}") from error
