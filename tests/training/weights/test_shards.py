from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from training.errors import TrainingError
from training.weights.directory import read_model
from training.weights.safetensors_stream import Bytes, read_bytes, read_header
from training.weights.shards import Shard, check_shards, plan_shards, write_index, write_shard


@pytest.fixture
def written(tmp_path: Path) -> tuple[list[Shard], dict[str, str]]:
    tensors = {
        "c": torch.arange(3, dtype=torch.uint8),
        "a": torch.randn(4, 5, dtype=torch.float32),
        "b": torch.randn(7).half(),
        "empty": torch.zeros(0, 3),
    }
    save_file(tensors, tmp_path / "source.safetensors")
    source = read_header(tmp_path / "source.safetensors")
    (tmp_path / "out").mkdir()
    shards = plan_shards(source.values(), tmp_path / "out", limit=80, dtype=None)

    def chunks(shard: Shard) -> Iterator[Bytes]:
        for tensor in shard:
            for start in range(0, tensor.size, 16):
                yield read_bytes(source[tensor.name], start, start + 16)

    sums = {shard[0].path.name: write_shard(shard, chunks(shard)) for shard in shards}
    write_index(shards)
    return shards, sums


def test_shards_keep_to_the_limit_and_safetensors_reads_them(
    written: tuple[list[Shard], dict[str, str]], tmp_path: Path
) -> None:
    shards, sums = written
    check_shards(shards, sums)
    assert [sum(tensor.size for tensor in shard) for shard in shards] == [80, 17]
    with safe_open(tmp_path / "source.safetensors", "pt") as source:
        for file in sums:
            with safe_open(tmp_path / "out" / file, "pt") as shard:
                assert shard.metadata() == {"format": "pt"}
                for name in shard.keys():  # noqa: SIM118
                    assert torch.equal(shard.get_tensor(name), source.get_tensor(name))


def test_every_tensor_is_aligned_to_its_elements(
    written: tuple[list[Shard], dict[str, str]],
) -> None:
    sizes = {"a": 4, "b": 2, "c": 1, "empty": 4}
    assert all(tensor.start % sizes[tensor.name] == 0 for shard in written[0] for tensor in shard)


def test_sums_are_those_of_the_files_and_every_file_has_one(
    written: tuple[list[Shard], dict[str, str]],
) -> None:
    shards, sums = written
    for shard in shards:
        path = shard[0].path
        assert sums[path.name] == sha256(path.read_bytes()).hexdigest()
    with pytest.raises(TrainingError, match="without a sum"):
        check_shards(shards, {})


def test_a_file_longer_than_planned_is_found(
    written: tuple[list[Shard], dict[str, str]],
) -> None:
    path = written[0][0][0].path
    path.write_bytes(path.read_bytes() + b"0")
    with pytest.raises(TrainingError, match=f"{path.name} is not"):
        check_shards(*written)


def test_a_header_other_than_planned_is_found(
    written: tuple[list[Shard], dict[str, str]], tmp_path: Path
) -> None:
    shards, sums = written
    path = shards[0][0].path
    path.write_bytes(path.read_bytes().replace(b'"a"', b'"z"'))
    with pytest.raises(TrainingError, match="lacks"):
        check_shards(shards, sums)
    assert read_header(path).keys() == {"z"} | {t.name for t in shards[0]} - {"a"}


def test_chunks_that_do_not_fill_the_plan_are_refused(
    written: tuple[list[Shard], dict[str, str]],
) -> None:
    with pytest.raises(TrainingError, match="do not make up its plan"):
        write_shard(written[0][0], [np.zeros(3, np.uint8)])


def test_a_model_without_a_tensor_is_refused(tmp_path: Path) -> None:
    save_file({}, tmp_path / "model.safetensors")
    with pytest.raises(TrainingError, match="without a single tensor"):
        read_model(tmp_path)
