"""The base as an adapter saw it in training: a model directory with dequantised weights."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from training.errors import TrainingError
from training.files import write_json
from training.merge.learnt_on.layers import quantised_weights
from training.merge.learnt_on.record import BaseQuantisation, read_record
from training.model_directory.directory import ModelDirectory, read_model_directory
from training.model_directory.model_files import changed_config
from training.weights.blockwise import ROWS, dequantised
from training.weights.rounding import CHUNK_ELEMENTS, copy_chunk
from training.weights.safetensors_stream import FLOAT_SIZES, Bytes, StoredTensor, read_values
from training.weights.shards import Shard, plan_shards, write_shards

SHARD = 2 * 10**9
WEIGHTS = (".safetensors", ".bin", ".index.json")


@contextmanager
def dequantised_base(base: Path, adapters: Sequence[Path], output: Path) -> Iterator[Path]:
    """Yield a directory beside `output` that holds `base` as the adapters were trained on it.

    It is as large as the base in the dtype of training, and removed when the block ends.
    Raises TrainingError when they were not all trained on the same quantised form of it.
    """
    record = _common_record(adapters)
    source = read_model_directory(base)
    output.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{output.name}.base-", dir=output.parent) as folder:
        target = Path(folder) / f"{base.resolve().name}-{record.scheme}"
        target.mkdir()
        _link_files(source, target, record.dtype)
        _write_weights(source, record, target)
        record.write(target)
        yield target


def _common_record(adapters: Sequence[Path]) -> BaseQuantisation:
    records = {read_record(adapter) for adapter in adapters}
    record = records.pop() if len(records) == 1 else None
    if record is None:
        raise TrainingError(
            f"{', '.join(map(str, adapters))}: not trained on one and the same quantised base"
            " (quantization.json in an adapter says which): merge into the base as it is"
        )
    return record


def _link_files(source: ModelDirectory, target: Path, dtype: str) -> None:
    """All but the weights, which config.json then says to be of `dtype`."""
    for path in source.path.iterdir():
        if path.is_file() and not path.name.endswith(WEIGHTS):
            (target / path.name).symlink_to(path.resolve())
    (target / "config.json").unlink()
    write_json(target / "config.json", changed_config(source.config, {"dtype": dtype}))


def _write_weights(source: ModelDirectory, record: BaseQuantisation, target: Path) -> None:
    layers = quantised_weights(source)
    shards = plan_shards(source.tensors.values(), target, SHARD, record.code)

    def chunks(shard: Shard) -> Iterator[Bytes]:
        return chain.from_iterable(
            _dequantised(source.tensors[planned.name], record)
            if planned.name in layers
            else _copied(source.tensors[planned.name], planned.dtype)
            for planned in shard
        )

    write_shards("dequantise", shards, chunks)


def dequantised_rows(source: StoredTensor, record: BaseQuantisation) -> Iterator[torch.Tensor]:
    """What training computed with, in place of a linear layer's weight: rows after rows of it."""
    rows, columns = source.shape
    step = max(1, CHUNK_ELEMENTS // columns // ROWS) * ROWS
    dtype = getattr(torch, record.dtype)
    return dequantised(
        record.scheme,
        (
            torch.from_numpy(read_values(source, first * columns, step * columns))
            .reshape(-1, columns)
            .to(dtype)
            for first in range(0, rows, step)
        ),
    )


def _dequantised(source: StoredTensor, record: BaseQuantisation) -> Iterator[Bytes]:
    for rows in dequantised_rows(source, record):
        yield rows.contiguous().view(torch.uint8).numpy().reshape(-1)


def _copied(source: StoredTensor, dtype: str) -> Iterator[Bytes]:
    count = prod(source.shape) if source.dtype in FLOAT_SIZES else source.size
    for first in range(0, count, CHUNK_ELEMENTS):
        yield copy_chunk(source, dtype, first, min(CHUNK_ELEMENTS, count - first))
