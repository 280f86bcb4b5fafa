"""One module's change as an adapter stores it: low-rank (LoRA, DoRA, AdaLoRA), bias, or rows."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from training.errors import TrainingError
from training.weights.rounding import Change
from training.weights.safetensors_stream import FLOAT_SIZES, StoredTensor, read_floats, read_values

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Pair:
    """A change of scale · B[out, rank] @ A[rank, in]; `transposed` for weights that are [in, out].

    Those are embeddings, whose in is the vocabulary, and transformers' Conv1D.

    AdaLoRA's `e` [rank, 1] multiplies A's rows; DoRA's `magnitude` [out] is the length that each
    row of the changed weight gets.
    """

    a: StoredTensor
    b: StoredTensor
    rank: int
    scale: float
    transposed: bool = False
    e: StoredTensor | None = None
    magnitude: StoredTensor | None = None

    @property
    def path(self) -> Path:
        """The file that it is in."""
        return self.a.path

    def laid_out(self, *, transposed: bool) -> Self:
        """Return the pair for a weight that is [in, out], or not."""
        return replace(self, transposed=self.transposed or transposed)

    def change(self) -> Change:
        """Return the change in fp64, the scale inside its left factor."""
        a, b = _doubles(self.a), _doubles(self.b)
        if self.e is not None:
            a *= _doubles(self.e)
        magnitude = None if self.magnitude is None else _doubles(self.magnitude)
        left, right = (a.T, b.T) if self.transposed else (b, a)
        return Change(left * self.scale, right, magnitude)

    def check_fits(self, name: str, weight: StoredTensor) -> None:
        """Check dtypes and shapes against the weight, called `name`, that the pair changes.

        Raises TrainingError when they do not belong together.
        """
        where = f"{self.a.path}: the pair for {name}"
        self._refuse_transposed_dora(where)
        if not {weight.dtype, *(part.dtype for part in self._parts())} <= FLOAT_SIZES.keys():
            raise TrainingError(
                f"{where} meets a weight of dtype {weight.dtype} (A {self.a.dtype},"
                f" B {self.b.dtype}): use a base that is not quantised, with F16, BF16 or F32"
            )
        found = [part.shape for part in self._parts()]
        if len(weight.shape) != 2 or found != self._expected(*weight.shape):
            raise TrainingError(
                f"{where} has A {self.a.shape}, B {self.b.shape} and rank {self.rank}, the weight"
                f" is {weight.shape}: adapter and base (or adapter_config.json) do not belong"
                " together"
            )

    def _refuse_transposed_dora(self, where: str) -> None:
        if self.transposed and self.magnitude is not None:
            raise TrainingError(
                f"{where}: DoRA is supported on linear layers only, not on embeddings or GPT-2's"
                " Conv1D: train without use_dora, or on other layers"
            )

    def changes(self) -> bool:
        """Return whether some rank has values in both halves, or the rows get new lengths.

        Raises TrainingError when a value is NaN or Inf.
        """
        a, b, *others = (_finite(part) for part in self._parts())
        alive = a.any(axis=1) & b.any(axis=0)
        if self.e is not None:
            alive &= others[0].any(axis=1)
        return bool(alive.any()) or self.magnitude is not None

    def _parts(self) -> list[StoredTensor]:
        return [part for part in (self.a, self.b, self.e, self.magnitude) if part is not None]

    def _expected(self, rows: int, columns: int) -> list[Shape]:
        out, into = (columns, rows) if self.transposed else (rows, columns)
        shapes: list[Shape] = [(self.rank, into), (out, self.rank)]
        if self.e is not None:
            shapes.append((self.rank, 1))
        if self.magnitude is not None:
            shapes.append((out,))
        return shapes


@dataclass(frozen=True)
class BiasShift:
    """What `lora_bias` trains: scale · b[out], to add to the bias of the module itself."""

    b: StoredTensor
    scale: float

    @property
    def path(self) -> Path:
        """The file that it is in."""
        return self.b.path

    def laid_out(self, *, transposed: bool) -> Self:
        """Return itself: a bias is [out] in every module."""
        return self

    def change(self) -> Change:
        """Return the change of the bias, as a column, in fp64."""
        return Change(_doubles(self.b)[:, None] * self.scale, np.ones((1, 1)))

    def check_fits(self, name: str, bias: StoredTensor) -> None:
        """Check dtype and shape against the bias, called `name`.

        Raises TrainingError when they do not belong together.
        """
        if not {bias.dtype, self.b.dtype} <= FLOAT_SIZES.keys() or self.b.shape != bias.shape:
            raise TrainingError(
                f"{self.b.path}: {self.b.name} is {self.b.dtype} {self.b.shape}, {name} is"
                f" {bias.dtype} {bias.shape}: adapter and base do not belong together"
            )

    def changes(self) -> bool:
        """Return whether one value is not zero; raise TrainingError for NaN or Inf."""
        return bool(_finite(self.b).any())


@dataclass(frozen=True)
class TokenRows:
    """What `trainable_token_indices` trains: `rows` [tokens, hidden] in place of the rows `ids`."""

    rows: StoredTensor
    ids: tuple[int, ...]

    def check_fits(self, name: str, weight: StoredTensor) -> None:
        """Check dtype and shape against the embeddings, called `name`.

        Raises TrainingError when they do not belong together.
        """
        floats = {weight.dtype, self.rows.dtype} <= FLOAT_SIZES.keys()
        if not floats or self.rows.shape != (len(self.ids), *weight.shape[1:]):
            raise TrainingError(
                f"{self.rows.path}: {self.rows.name} is {self.rows.dtype} {self.rows.shape} for"
                f" {len(self.ids)} tokens, {name} is {weight.dtype} {weight.shape}: adapter and"
                " base (or adapter_config.json) do not belong together"
            )
        if max(self.ids, default=-1) >= weight.shape[0]:
            raise TrainingError(
                f"{self.rows.path}: token {max(self.ids)} of trainable_token_indices has no row in"
                f" {name}, which has {weight.shape[0]}: save the base with the resized embeddings"
                " that the adapter was trained on, and merge into that"
            )

    def changes(self, weight: StoredTensor) -> bool:
        """Return whether one row is not the weight's own; raise TrainingError for NaN or Inf."""
        size = weight.shape[1]
        own = [read_values(weight, number * size, size) for number in self.ids]
        return not np.array_equal(_finite(self.rows), own)


def total_change(pairs: Sequence[Pair | BiasShift]) -> Change:
    """Return the sum of the pairs' changes as one, R being the sum of their ranks.

    A pair with a magnitude must be alone: the length is that of the sum it was trained in.
    """
    changes = [pair.change() for pair in pairs]
    if len(changes) == 1:
        return changes[0]
    left = np.concatenate([change.left for change in changes], axis=1)
    return Change(left, np.concatenate([change.right for change in changes]))


def _finite(tensor: StoredTensor) -> NDArray[np.float32]:
    values = read_floats(tensor)
    if not np.isfinite(values).all():
        raise TrainingError(f"{tensor.path}: {tensor.name} holds NaN or Inf: train it again")
    return values


def _doubles(tensor: StoredTensor) -> NDArray[np.float64]:
    return read_floats(tensor).astype(np.float64)
