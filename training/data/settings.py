"""Settings of the data: which files, in which shares, laid out how."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self, TypeAlias

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    model_validator,
)

from training.data.formats import Format, Layout
from training.data.messages import Row


class Section(BaseModel):
    """Part of a recipe: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


Mode: TypeAlias = Literal["off", "on", "data"]
"""Of thoughts: answers without, the model asked to think, or those that the rows have."""


class Source(Section):
    """One file of several; what it does not say of its columns, `data` does."""

    path: Path
    weight: float | None = Field(None, gt=0, description="share of the samples; null: by its rows")
    cap: int | None = Field(None, ge=1, description="rows at most, drawn by the seed")
    repeat: int = Field(1, ge=1, description="how often an epoch has each row")
    format: Literal["auto"] | Format | None = None
    prompt: str | None = None
    response: str | None = None
    history: str | None = None
    system: str | None = None
    learn: Literal["last", "all"] | None = None

    @model_validator(mode="after")
    def _one_measure(self) -> Self:
        if self.weight is not None and self.repeat > 1:
            raise ValueError("set weight or repeat: both say how often rows come")
        return self


def _listed(value: object) -> object:
    """A path alone is a list of one."""
    sources = value if isinstance(value, list) else [value]
    return [{"path": each} if isinstance(each, str | Path) else each for each in sources]


def _as_written(sources: list[Source]) -> object:
    """A path alone, where there is nothing else to say."""
    fields = [source.model_dump(mode="json", exclude_defaults=True) for source in sources]
    return str(sources[0].path) if len(fields) == 1 and fields[0].keys() == {"path"} else fields


Sources = Annotated[
    list[Source], Field(min_length=1, max_length=200), BeforeValidator(_listed),
    PlainSerializer(_as_written),
]  # fmt: skip


class DataConfig(Section):
    """Where the samples are: JSON lines, one object a line, or a JSON list of chat data."""

    train: Sources = Field(description="a file, or a list of files: path, weight, cap, repeat, …")
    eval: Path | None = None
    test: Path | None = Field(None, description="only looked at, by --check")
    limit: int | None = Field(None, ge=1, description="first rows of each file alone, for a trial")
    format: Literal["auto"] | Format = Field("auto", description="auto: known by the columns")
    prompt: str = "input"
    response: str = "target"
    history: str | None = Field(None, description="column of earlier [question, answer] pairs")
    system: str | None = Field(None, description="column of the text before the first question")
    learn: Literal["last", "all"] = Field("last", description="answers of a conversation")
    max_length: int = Field(1024, ge=16, description="tokens; a longer prompt is cut in its middle")
    batching: Literal["grouped", "packed"] = Field(
        "grouped", description="padded rows of like length, or a batch in one row without padding"
    )

    def layout(self, source: Source) -> Layout:
        """How the rows of a file are read."""
        names = {*Layout.__dataclass_fields__}
        own = source.model_dump(include=names, exclude_none=True)
        return Layout(**(self.model_dump(include=names) | own))

    @model_validator(mode="after")
    def _one_kind_of_share(self) -> Self:
        weights = [source.weight is not None for source in self.train]
        if any(weights) and not all(weights):
            raise ValueError("give every file a weight, or none")
        return self


@dataclass(frozen=True)
class FileRows:
    """The rows that are used of one file."""

    source: Source
    rows: list[Row]
