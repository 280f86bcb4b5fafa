"""LLaMA's release files, consolidated.NN.pth: which tensors they hold, how these are cut.

The release ran one process a file, each with a band of every matrix: rows where the outputs are
divided among the processes, columns where the inputs are. (Meta's own model.py.)
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from training.convert.meta.params import Params
from training.convert.meta.pieces import Pieces
from training.errors import TrainingError
from training.weights.safetensors_stream import StoredTensor, Tensors
from training.weights.torch_files import read_torch_file

COMPUTED = "rope.freqs"  # computed from the head's width


@dataclass(frozen=True)
class ReleaseFile:
    """One consolidated.NN.pth: its tensors by name, their bytes still on disk."""

    path: Path
    tensors: Tensors

    def find(self, name: str) -> StoredTensor:
        """Return the tensor `name`; raise TrainingError when the file lacks it."""
        if name not in self.tensors:
            raise TrainingError(
                f"{self.path} lacks {name}: it is not a whole LLaMA 1 or 2, get it again"
            )
        return self.tensors[name]


@dataclass(frozen=True)
class ReleaseTensor:
    """A tensor's name in the release and in Hugging Face's LLaMA, its whole shape, how it is cut.

    `axis` and `head` are those of Pieces.
    """

    old: str
    new: str
    shape: tuple[int, ...]
    axis: int | None
    head: int = 0


def read_release(directory: Path) -> list[ReleaseFile]:
    """Return consolidated.00.pth, consolidated.01.pth, … of `directory`, all headers read.

    Raises TrainingError when there are none, one of them is missing or cannot be read.
    """
    paths = sorted(directory.glob("consolidated.*.pth"))
    if not paths:
        raise TrainingError(f"{directory} holds no consolidated.NN.pth: is it a LLaMA release?")
    for number, path in enumerate(paths):
        expected = f"consolidated.{number:02d}.pth"
        if path.name != expected:
            raise TrainingError(f"{directory} lacks {expected} (it has {path.name}): get it too")
    return [ReleaseFile(path, read_torch_file(path)) for path in paths]


def assemble(files: Sequence[ReleaseFile], params: Params) -> list[Pieces]:
    """Return every tensor of the model with its parts, in the order that a forward pass uses.

    Raises TrainingError for too few or too many files, a missing or unknown tensor, a wrong shape.
    """
    _check_count(files, params)
    vocab = params.vocab or files[0].find("tok_embeddings.weight").shape[0]
    entries = expected_tensors(params, vocab)
    known = {entry.old for entry in entries} | {COMPUTED}
    for file in files:
        for name in file.tensors.keys() - known:
            raise TrainingError(
                f"{file.path} holds {name}, which no LLaMA of {params.layers} layers has:"
                " do params.json and the weights belong together?"
            )
    return [_pieces(entry, files) for entry in entries]


def expected_tensors(params: Params, vocab: int) -> list[ReleaseTensor]:
    """Return what a release with these sizes and `vocab` embedding rows consists of."""
    dim = params.dim
    layers = [entry for number in range(params.layers) for entry in _layer(params, number)]
    return [
        ReleaseTensor("tok_embeddings.weight", "model.embed_tokens.weight", (vocab, dim), 1),
        *layers,
        ReleaseTensor("norm.weight", "model.norm.weight", (dim,), None),
        ReleaseTensor("output.weight", "lm_head.weight", (vocab, dim), 0),
    ]


def _layer(params: Params, number: int) -> list[ReleaseTensor]:
    dim, inner, head = params.dim, params.inner, params.head_dim
    keys = params.kv_heads * head
    entries = [
        ReleaseTensor("attention_norm", "input_layernorm", (dim,), None),
        ReleaseTensor("attention.wq", "self_attn.q_proj", (dim, dim), 0, head),
        ReleaseTensor("attention.wk", "self_attn.k_proj", (keys, dim), 0, head),
        ReleaseTensor("attention.wv", "self_attn.v_proj", (keys, dim), 0),
        ReleaseTensor("attention.wo", "self_attn.o_proj", (dim, dim), 1),
        ReleaseTensor("ffn_norm", "post_attention_layernorm", (dim,), None),
        ReleaseTensor("feed_forward.w1", "mlp.gate_proj", (inner, dim), 0),
        ReleaseTensor("feed_forward.w3", "mlp.up_proj", (inner, dim), 0),
        ReleaseTensor("feed_forward.w2", "mlp.down_proj", (dim, inner), 1),
    ]
    return [
        replace(
            entry,
            old=f"layers.{number}.{entry.old}.weight",
            new=f"model.layers.{number}.{entry.new}.weight",
        )
        for entry in entries
    ]


def _check_count(files: Sequence[ReleaseFile], params: Params) -> None:
    """Each file has an equal band of wq's rows, which gives the number of files."""
    rows, columns = (*files[0].find("layers.0.attention.wq.weight").shape, 0, 0)[:2]
    if columns != params.dim or not rows or params.dim % rows:
        return  # not a matter of missing files: the shapes are checked later
    count = params.dim // rows
    if count != len(files):
        raise TrainingError(
            f"{files[0].path} is one of {count} (it has {rows} of the {params.dim} rows of wq), but"
            f" {len(files)} file(s) are there: the directory needs consolidated.00.pth to"
            f" consolidated.{count - 1:02d}.pth, no more and no fewer"
        )
    if params.kv_heads % count:
        raise TrainingError(
            f"{files[0].path}: {params.kv_heads} key-value heads cannot be cut into {count} files:"
            " do params.json and the weights belong together?"
        )


def _pieces(entry: ReleaseTensor, files: Sequence[ReleaseFile]) -> Pieces:
    parts = tuple(file.find(entry.old) for file in files)
    for part in parts:
        _check_shape(part, entry, len(files))
        if part.dtype != parts[0].dtype:
            raise TrainingError(
                f"{part.name} is {parts[0].dtype} in {parts[0].path} but {part.dtype} in"
                f" {part.path}: the files belong to different models"
            )
    return Pieces(entry.new, parts, entry.axis, entry.head)


def _check_shape(part: StoredTensor, entry: ReleaseTensor, count: int) -> None:
    whole = list(part.shape)
    if entry.axis is not None and entry.axis < len(whole):
        whole[entry.axis] *= count
    if whole != list(entry.shape):
        raise TrainingError(
            f"{part.path}: {part.name} has shape {list(part.shape)}, but params.json implies"
            f" {list(entry.shape)} over {count} file(s): do they belong together?"
        )
