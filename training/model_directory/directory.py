"""A model directory to read from: the one answer to what its checkpoint holds, and how it is used.

Training, merging, converting and verifying all ask here.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from training.errors import TrainingError
from training.files import JsonObject, read_json
from training.weights.compare import same_values
from training.weights.directory import read_model
from training.weights.safetensors_stream import FLOAT_SIZES, INDEX, SINGLE, Tensors

if TYPE_CHECKING:
    from training.model_directory.architecture import Architecture

# Model types whose tensors have the names of their parameters and are linear layers, embeddings and
# norms only, and whether the class ties the head to the embeddings where config.json does not say.
# It saves the seconds and the memory of loading transformers to know that of the most used ones.
PLAIN = {
    **{"llama": False, "mistral": False, "qwen2": False, "qwen3": False, "glm": False},
    **{"glm4": False, "chatglm_6b": False},
}
TIES = "tie_word_embeddings"
EMBEDDINGS = ("embed_tokens.weight", "word_embeddings.weight", "wte.weight", "embed_in.weight")
HEADS = ("lm_head.weight", "output_layer.weight", "embed_out.weight")


class Ends(NamedTuple):
    """Both ends of a model, by their names on disk; `head` None where it has no tensor there.

    Where `tied` the embeddings are the head, too.
    """

    embedding: str
    head: str | None
    tied: bool


@dataclass(frozen=True)
class ModelDirectory:
    """The directory `path`, whose config.json holds `config`; each of its files is read once."""

    path: Path
    config: JsonObject

    @cached_property
    def tensors(self) -> Tensors:
        """What read_model returns; read when first needed, since .bin files take torch to read."""
        return read_model(self.path)

    @cached_property
    def ends(self) -> Ends | None:
        """None when the embeddings have no known name.

        Raises TrainingError when config.json and the weights contradict each other.
        """
        embedding, head = find_embedding(self.tensors), find_head(self.tensors)
        if embedding is None:
            return None
        if self.tied and head:
            self._refuse_other_head(embedding, head)
        if not self.tied and head is None and self._is_plain and self._generates:
            raise TrainingError(
                f"{self.path} has no output head (lm_head.weight), and config.json does not tie it"
                f" to the embeddings: get the whole model, or set {TIES} to true if it is so"
            )
        return Ends(embedding, head, self.tied)

    @property
    def notes(self) -> list[str]:
        """What a user should know of the files."""
        if (self.path / SINGLE).exists() and (self.path / INDEX).exists():
            return [
                f"the weights are those of {SINGLE}: {INDEX} beside it, from before it was saved"
                " again as one file, says nothing about them"
            ]
        return []

    @property
    def rows(self) -> int | None:
        """How many token ids the embeddings have a row for, None when their name is not known."""
        return embedding_rows(self.tensors)

    @cached_property
    def tied(self) -> bool:
        """Whether the embeddings are the head: as config.json says, else as the class does.

        Raises TrainingError when neither is known.
        """
        told = self.config.get(TIES, PLAIN.get(str(self.config.get("model_type"))))
        if isinstance(told, bool) and "text_config" not in self.config:
            return told
        if self.architecture is None:
            return self._tied_by_config(told)
        return self.architecture.tied

    def _tied_by_config(self, told: object) -> bool:
        nested = self.config.get("text_config")
        told = nested.get(TIES, told) if isinstance(nested, dict) else told
        if not isinstance(told, bool):
            raise TrainingError(
                f"{self.path}: transformers does not know the model type"
                f" {self.config.get('model_type')!r}, and config.json does not say whether head and"
                f" embeddings are tied: set {TIES} there to true or false"
            )
        return told

    def stored_name(self, parameter: str) -> str:
        """Return the name on disk of a parameter of the model's class.

        A parameter that nothing on disk is for keeps its name.
        Raises TrainingError when it is put together of several tensors.
        """
        if parameter in self.tensors or self.architecture is None:
            return parameter
        if parameter in self.architecture.fused:
            raise TrainingError(
                f"{parameter} is put together of several tensors in {self.path}"
                f" ({self.architecture.fused[parameter]}, …): an adapter on it cannot be merged"
            )
        return self.architecture.stored.get(parameter, parameter)

    @property
    def knows_layout(self) -> bool:
        """Whether is_transposed knows: for a type that transformers does not know, it does not."""
        return self._is_plain or self.architecture is not None

    def is_transposed(self, parameter: str) -> bool:
        """Whether that weight is [in, out], as GPT-2's, where linear layers have [out, in]."""
        if self._is_plain or self.architecture is None:
            return False
        return parameter in self.architecture.transposed

    @cached_property
    def architecture(self) -> "Architecture | None":
        """What the class says; reading it loads transformers, which takes seconds."""
        from training.model_directory.architecture import read_architecture

        return read_architecture(self.path, self.config, self.tensors)

    @property
    def _is_plain(self) -> bool:
        return str(self.config.get("model_type")) in PLAIN

    @property
    def _generates(self) -> bool:
        """Whether it is for text: classifiers and embedding models have no head."""
        return "ForCausalLM" in str(self.config.get("architectures"))

    def _refuse_other_head(self, embedding: str, head: str) -> None:
        one, other = self.tensors[embedding], self.tensors[head]
        if {one.dtype, other.dtype} <= FLOAT_SIZES.keys() and not same_values(one, other):
            raise TrainingError(
                f"{other.path}: {head} differs from {embedding}, but {self.path}/config.json ties"
                f" them (or leaves it to the model's class, which does): set {TIES} to false there"
                " to use both, or get the model again"
            )


def read_model_directory(path: Path) -> ModelDirectory:
    """Return the model directory `path`; a quantised one is refused.

    Raises TrainingError when it is quantised, or config.json is missing or damaged.
    """
    config = read_json(path / "config.json")
    if config.get("quantization_config"):
        raise TrainingError(f"{path} is quantised: take the model it was quantised from")
    return ModelDirectory(path, config)


def find_embedding(names: Iterable[str]) -> str | None:
    """Return which of `names` is that of the embeddings, None when none has a known name."""
    return _first(names, EMBEDDINGS)


def find_head(names: Iterable[str]) -> str | None:
    """Return which of `names` is that of the output head, None when none has a known name."""
    return _first(names, HEADS)


def embedding_rows(tensors: Tensors) -> int | None:
    """Return the rows of the embeddings; None when none have a known name."""
    name = find_embedding(tensors)
    return None if name is None else tensors[name].shape[0]


def is_end(name: str) -> bool:
    """Whether a tensor of that name is the embeddings or the head."""
    return name.endswith((*EMBEDDINGS, *HEADS))


def _first(names: Iterable[str], endings: tuple[str, ...]) -> str | None:
    return next((name for name in names if name.endswith(endings)), None)
