"""The weights of a model or adapter directory, whichever way they were saved."""

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from training.errors import TrainingError
from training.files import read_json
from training.weights.safetensors_stream import INDEX, SINGLE, StoredTensor, Tensors, read_header
from training.weights.torch_files import COMPUTED, read_torch_file

TORCH_SINGLE = "pytorch_model.bin"
TORCH_INDEX = "pytorch_model.bin.index.json"
OF = re.compile(r"-\d+-of-(\d+)\.")  # as model-00001-of-00002.safetensors


def read_model(directory: Path) -> Tensors:
    """Return every tensor of a model directory by name, in the order of files and bytes.

    As in transformers, safetensors go before pytorch_model*.bin, and one whole file before an
    index: saving a sharded directory again in one file leaves the old index there.
    Raises TrainingError when there are no weights, or files or their index are damaged.
    """
    for index, single in ((INDEX, SINGLE), (TORCH_INDEX, TORCH_SINGLE)):
        if (directory / single).exists():
            tensors = read_file(directory / single)
        elif (directory / index).exists():
            tensors = _read_sharded(directory / index)
        else:
            continue
        if not tensors:
            raise TrainingError(f"{directory} holds weights without a single tensor")
        return tensors
    names = f"{SINGLE}, {INDEX}, {TORCH_SINGLE} nor {TORCH_INDEX}"
    raise TrainingError(f"{directory} holds neither {names}: is it a model directory?")


def find_file(directory: Path, names: Sequence[str]) -> Path:
    """Return the first of `names` that is there; raise TrainingError when none is."""
    for name in names:
        if (directory / name).exists():
            return directory / name
    raise TrainingError(f"cannot read {directory}: neither {' nor '.join(names)} is there")


def read_file(path: Path) -> Tensors:
    """Return the tensors of one .safetensors or .bin file by name, in the order of their bytes.

    Raises TrainingError when the file is missing, damaged, or holds what is not a tensor.
    """
    return read_header(path) if path.suffix == ".safetensors" else read_torch_file(path)


def _read_sharded(index: Path) -> Tensors:
    weight_map = _weight_map(index)
    files = sorted(set(weight_map.values()))
    headers = {file: read_file(index.parent / file) for file in files}
    tensors: dict[str, StoredTensor] = {}
    for file, header in headers.items():
        tensors |= {name: t for name, t in header.items() if weight_map.get(name) == file}
    _check_complete(index, weight_map, tensors)
    for file, header in headers.items():
        _refuse_unlisted(index, file, [name for name in header if name not in weight_map])
    return tensors


def _weight_map(index: Path) -> Mapping[str, str]:
    """Which file each tensor is in, by name; files are beside the index, and none is missing."""
    files = read_json(index).get("weight_map")
    if not isinstance(files, dict) or not all(
        isinstance(file, str) and file == Path(file).name for file in files.values()
    ):
        raise TrainingError(
            f"{index} has no weight_map of tensors to the files beside it: download it again"
        )
    counts = Counter(of[1] for file in set(files.values()) if (of := OF.search(file)))
    for total, count in counts.items():
        if count < int(total):
            raise TrainingError(
                f"{index} names {count} of the {int(total)} files that are …-of-{total}: download"
                " it again"
            )
    return files


def _refuse_unlisted(index: Path, file: str, names: Sequence[str]) -> None:
    weights = [name for name in names if not name.endswith(COMPUTED)]
    if weights:
        raise TrainingError(
            f"{index} does not list {weights[0]}, which {file} holds: is the index that of another"
            " download?"
        )


def _check_complete(index: Path, weight_map: Mapping[str, str], names: Collection[str]) -> None:
    missing = sorted(n for n in weight_map if n not in names and not n.endswith(COMPUTED))
    if missing:
        raise TrainingError(
            f"{index} names {missing[0]}, which {weight_map[missing[0]]} lacks"
            " (the shards belong to another index: download them again)"
        )
