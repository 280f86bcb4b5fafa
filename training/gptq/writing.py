"""The files of a model whose layers come one by one."""

from collections.abc import Iterator, Mapping, Sequence
from math import prod

import numpy as np
import torch
from torch import Tensor

from training.gptq.layers import PACKED, SHAPE
from training.gptq.rounding import LOWEST, Rounded
from training.gptq.sweep import Rounding
from training.merge.composition import Part
from training.merge.quantisation import SCALE
from training.weights.rounding import CHUNK_ELEMENTS, copy_chunk
from training.weights.safetensors_stream import FLOAT_SIZES, TORCH_NAMES, Bytes, StoredTensor
from training.weights.shards import Shard, check_shards, write_index, write_shard


def write(
    shards: Sequence[Shard], parts: Mapping[str, Part], layers: Iterator[Rounding]
) -> dict[str, str]:
    """Write the planned shards, their index, and check them; return each file's sha256 by name.

    Tensors in `parts` are copied; all others are those of `layers`, which are taken as needed.
    Raises TrainingError when a weight holds NaN or Inf, or the disk something else.
    """
    dtypes = {tensor.name: tensor.dtype for shard in shards for tensor in shard}
    waiting: dict[str, Bytes] = {}

    def chunks(shard: Shard) -> Iterator[Bytes]:
        for target in shard:
            if target.name in parts:
                yield from _copied(parts[target.name].source)
                continue
            while target.name not in waiting:
                for name, made in next(layers).items():
                    waiting.update(_files_of(name, made, dtypes[name + SCALE]))
            yield waiting.pop(target.name)

    sums = {shard[0].path.name: write_shard(shard, chunks(shard)) for shard in shards}
    for _ in layers:  # none is left: this ends their progress
        pass
    write_index(shards)
    check_shards(shards, sums)
    return sums


def _files_of(layer: str, made: Rounded, dtype: str) -> dict[str, Bytes]:
    """The bytes of a layer's tensors by their names; `dtype` is that of its scales."""
    scales = made.scales.cpu()
    shape = np.array(made.codes.shape, np.int64)
    return {
        layer + PACKED: _packed(made.codes),
        layer + SCALE: _bytes(scales, dtype),
        layer + SHAPE: shape.view(np.uint8),
    }


def _packed(codes: Tensor) -> Bytes:
    """Codes [out, in] as compressed-tensors packs them: eight an int32, the first one lowest."""
    nibbles: Bytes = (codes.cpu().numpy() - LOWEST).astype(np.uint8).reshape(-1, 2)
    return nibbles[:, 0] + nibbles[:, 1] * np.uint8(16)


def _bytes(scales: Tensor, dtype: str) -> Bytes:
    values = scales.to(getattr(torch, TORCH_NAMES[dtype])).contiguous()
    data: Bytes = values.view(torch.uint8).numpy().reshape(-1)
    return data


def _copied(source: StoredTensor) -> Iterator[Bytes]:
    count = prod(source.shape) if source.dtype in FLOAT_SIZES else source.size
    for first in range(0, count, CHUNK_ELEMENTS):
        yield copy_chunk(source, source.dtype, first, min(CHUNK_ELEMENTS, count - first))
