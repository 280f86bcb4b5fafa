"""PyTorch's own files (.bin, .pth): where each tensor's bytes lie, without reading them.

torch.save writes a zip of uncompressed storages, so a tensor is a run of bytes in the file and
can be streamed like one of safetensors. Only tensors are unpickled (weights_only), never code.
"""

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any
from zipfile import is_zipfile

from training.errors import TrainingError
from training.files import ODD_VALUES
from training.weights.safetensors_stream import StoredTensor, Tensors

if TYPE_CHECKING:
    import torch

CODES: Mapping[str | None, str] = {
    **{"float16": "F16", "bfloat16": "BF16", "float32": "F32", "float64": "F64"},
    **{"int8": "I8", "uint8": "U8", "int16": "I16", "int32": "I32", "int64": "I64", "bool": "BOOL"},
}

COMPUTED = "rotary_emb.inv_freq"  # not a weight; old checkpoints carry it along


def read_torch_file(path: Path) -> Tensors:
    """Return the tensors of a torch.save'd state dict by name, in the order of their bytes.

    Raises TrainingError when the file is missing, cut short, holds more than tensors, or has a
    layout that cannot be streamed (written by torch before 1.6, or not contiguous).
    """
    tensors = {
        name: _stored(path, name, value)
        for name, value in _load(path).items()
        if not name.endswith(COMPUTED)
    }
    return {tensor.name: tensor for tensor in sorted(tensors.values(), key=lambda t: t.start)}


def _load(path: Path) -> "dict[str, torch.Tensor]":
    import torch

    try:
        _check_zip(path)
        state: Any = torch.load(path, map_location="meta", weights_only=True)
    except OSError as error:
        raise TrainingError(f"cannot read {path}: {error.strerror}") from error
    except UnpicklingError as error:
        raise TrainingError(
            f"{path} holds more than tensors, which loading could execute: refused"
        ) from error
    except (RuntimeError, EOFError, *ODD_VALUES) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise TrainingError(f"{path} is damaged: {reason}") from error
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise TrainingError(f"{path} is not a state dict: expected tensors by name")
    return state


def _check_zip(path: Path) -> None:
    path.stat()
    if not is_zipfile(path):
        raise TrainingError(
            f"{path} is not a whole file of torch.save (or written by torch before 1.6): load it"
            " with torch.load(weights_only=True) and save it again, or get it again"
        )


def _stored(path: Path, name: str, tensor: "torch.Tensor") -> StoredTensor:
    code = CODES.get(str(tensor.dtype).removeprefix("torch."))
    # set by torch.load for storages on the meta device
    offset: int | None = getattr(tensor.untyped_storage(), "_checkpoint_offset", None)
    if code is None or offset is None or not tensor.is_contiguous():
        raise TrainingError(
            f"{path}: {name} ({tensor.dtype}, strides {tensor.stride()}) cannot be streamed:"
            " load it with torch.load(weights_only=True), make it contiguous and save it again"
        )
    start = offset + int(tensor.storage_offset()) * tensor.element_size()
    return StoredTensor(
        name, code, tuple(tensor.shape), path, start, tensor.numel() * tensor.element_size()
    )
