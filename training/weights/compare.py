"""Whether two stored tensors hold the same values."""

from math import prod

import numpy as np

from training.weights.safetensors_stream import StoredTensor, read_values

COMPARED_ELEMENTS = 1 << 20


def same_values(one: StoredTensor, other: StoredTensor) -> bool:
    """Return whether two tensors of FLOAT_SIZES dtypes hold the same values."""
    if one.shape != other.shape:
        return False
    if (one.path, one.start, one.dtype) == (other.path, other.start, other.dtype):
        return True  # they share a storage
    for first in range(0, prod(one.shape), COMPARED_ELEMENTS):
        ours, theirs = (read_values(each, first, COMPARED_ELEMENTS) for each in (one, other))
        if not np.array_equal(ours, theirs):
            return False
    return True
