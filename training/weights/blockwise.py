"""Weights in 4 or 8 bits as bitsandbytes makes them, and the values that they stand for.

NF4: blocks of 64 weights, each to the nearest of 16 values under the block's largest; these scales
are quantised once more, 256 at a time (arXiv:2305.14314). int8: every row to the nearest of 255
steps under the row's largest, from fp16.
"""

from collections.abc import Iterable, Iterator

import bitsandbytes
import torch

BLOCK, SCALES = 64, 256
QUANTISED = {"nf4": 0.5 + 1 / BLOCK + 4 / (BLOCK * SCALES), "int8": 1.0}
"""Bytes a weight, with the scales of NF4; those of int8's rows hardly count."""
ROWS = 64
"""Chunks of a weight have a multiple of so many rows, and so whole blocks."""


def dequantised(scheme: str, chunks: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
    """What quantising makes of a weight [out, in], in its dtype, which is that of computing.

    It comes and goes in chunks of rows, all but the last a multiple of ROWS. For NF4 all chunks
    are taken before the first is given, and kept in 4 bits meanwhile.
    """
    return map(_through_int8, chunks) if scheme == "int8" else _through_nf4(chunks)


def _through_nf4(chunks: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
    coded = [(*_nf4(chunk), chunk.shape, chunk.dtype) for chunk in chunks]
    scales = torch.cat([largest for _, largest, _, _ in coded])
    mean = scales.mean()
    codes, state = bitsandbytes.functional.quantize_blockwise(scales - mean, blocksize=SCALES)
    scales = bitsandbytes.functional.dequantize_blockwise(codes, state) + mean
    parts = scales.split([len(largest) for _, largest, _, _ in coded])
    for (packed, _, shape, dtype), part in zip(coded, parts, strict=True):
        flat = (shape.numel(),)  # given both sizes, it goes wrong where rows are no whole blocks
        values = torch.ops.bitsandbytes.dequantize_4bit(packed, part, BLOCK, "nf4", flat, dtype)
        yield values.view(shape)


def _nf4(chunk: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The codes, two a byte, and the largest magnitude of each block."""
    packed, largest = torch.ops.bitsandbytes.quantize_4bit(chunk, BLOCK, "nf4", torch.uint8)
    return packed, largest


def _through_int8(chunk: torch.Tensor) -> torch.Tensor:
    codes, scales, _ = bitsandbytes.functional.int8_vectorwise_quant(chunk.half())
    values: torch.Tensor = codes.to(chunk.dtype).mul_(scales.unsqueeze(1).mul(1 / 127))
    return values
