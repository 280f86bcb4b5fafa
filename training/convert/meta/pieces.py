"""A tensor cut up over several files, put together a few megabytes at a time.

The bytes are moved, never computed with, so every value stays what it was, bit for bit.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from training.errors import TrainingError
from training.weights.safetensors_stream import Bytes, StoredTensor, read_bytes

CHUNK = 1 << 22  # bytes


@dataclass(frozen=True)
class Pieces:
    """One tensor of the output and where its parts lie, all of one shape and dtype.

    `axis` 0: the parts are bands of rows; 1: bands of columns; None: every part is the whole.
    `head`: rows of an attention head whose rotary pairs are neighbours (0: not such a tensor).
    """

    name: str
    parts: tuple[StoredTensor, ...]
    axis: int | None
    head: int = 0

    def planned(self) -> StoredTensor:
        """Return name, dtype, shape and size of the whole, without a place yet."""
        first = self.parts[0]
        shape, size = list(first.shape), first.size
        if self.axis is not None:
            shape[self.axis] *= len(self.parts)
            size *= len(self.parts)
        return StoredTensor(self.name, first.dtype, tuple(shape), Path(), 0, size)

    def chunks(self) -> Iterator[Bytes]:
        """Yield the bytes of the whole tensor.

        Raises TrainingError when parts that should be copies differ, or a file became shorter.
        """
        if self.axis is None:
            return self._same()
        if self.axis == 1:
            return self._columns()
        return self._heads() if self.head else self._rows()

    def _rows(self) -> Iterator[Bytes]:
        for part in self.parts:
            yield from _bands(part, CHUNK)

    def _heads(self) -> Iterator[Bytes]:
        # Rotary positions turn pairs of rows. The release has pair i in rows 2i and 2i+1 of its
        # head, Hugging Face in rows i and i + head/2.
        for part in self.parts:
            for old in _bands(part, self.head * _row_bytes(part)):
                pairs = old.reshape(self.head // 2, 2, -1)
                yield pairs.swapaxes(0, 1).ravel()

    def _columns(self) -> Iterator[Bytes]:
        count, width = len(self.parts), _row_bytes(self.parts[0])
        rows = max(1, CHUNK // (width * count))
        bands = [_bands(part, rows * width) for part in self.parts]
        for pieces in zip(*bands, strict=True):
            yield np.stack([piece.reshape(-1, width) for piece in pieces], axis=1).ravel()

    def _same(self) -> Iterator[Bytes]:
        copies = [_bands(part, CHUNK) for part in self.parts]
        for first, *others in zip(*copies, strict=True):
            for part, other in zip(self.parts[1:], others, strict=True):
                if not np.array_equal(other, first):
                    raise TrainingError(
                        f"{part.name} differs between {self.parts[0].path} and {part.path}: the"
                        " files belong to different models, or one is damaged; get them again"
                    )
            yield first


def _bands(part: StoredTensor, size: int) -> Iterator[Bytes]:
    """The bytes of `part` in pieces of `size`, the last one shorter."""
    return (read_bytes(part, start, start + size) for start in range(0, part.size, size))


def _row_bytes(part: StoredTensor) -> int:
    return part.size // part.shape[0]
