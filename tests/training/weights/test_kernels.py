from typing import Any

import numba
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.training.merge.exact import nearest
from training.weights import kernels
from training.weights.rounding import Change, Doubles

TORCH: dict[Any, torch.dtype] = {
    np.uint16: torch.float16,
    np.int16: torch.bfloat16,
    np.float32: torch.float32,
}
BITS = list(TORCH)
FINITE = st.floats(-60000, 60000).filter(lambda value: value == 0 or abs(value) > 1e-30)


def as_bits(values: torch.Tensor, bits: Any) -> NDArray[Any]:
    values = values.to(TORCH[bits]).contiguous()
    return values.view(torch.int16 if bits != np.float32 else torch.float32).numpy().view(bits)


def as_tensor(array: NDArray[Any]) -> torch.Tensor:
    kind = TORCH[array.dtype.type]
    return (
        torch.from_numpy(array.view(np.int16)).view(kind)
        if array.itemsize == 2
        else (torch.from_numpy(array))
    )


def rounded(exact: Doubles, bits: Any) -> NDArray[Any]:
    """Bring `exact` [rows, columns] through `add` as a change of zeros."""
    out = np.empty(exact.shape, bits)
    stored = np.zeros(exact.shape, np.float32)
    Change(np.eye(len(exact)), exact).add_to(stored, range(len(exact)), out)
    return out


@pytest.mark.parametrize("bits", BITS)
@settings(deadline=None)  # the first call compiles
@given(st.lists(FINITE, min_size=1, max_size=40))
def test_sums_are_rounded_once_to_the_nearest(bits: Any, values: list[float]) -> None:
    exact = np.array([values])
    expected = nearest(torch.from_numpy(exact), TORCH[bits])
    assert torch.equal(as_tensor(rounded(exact, bits)), expected)


@pytest.mark.parametrize("bits", [np.uint16, np.int16])
def test_neighbours_of_every_border_between_16_bit_values_fall_to_the_right_side(
    bits: Any,
) -> None:
    # all positive finite values but the largest: 0 to 0x7BFE in fp16, to 0x7F7E in bf16
    last = {np.uint16: 0x7BFF, np.int16: 0x7F7F}[bits]
    first = {np.uint16: 0, np.int16: 0x0080}[bits]  # bf16 below 2**-126 is rounded twice
    values = as_tensor(np.arange(first, last + 1, dtype=bits)).double().numpy()
    borders = (values[:-1] + values[1:]) / 2
    even = np.arange(first, last) % 2 == 0
    for sign in (1, -1):
        for side, expected in (
            (np.nextafter(borders, 0), np.arange(first, last)),
            (borders, np.arange(first, last) + ~even),
            (np.nextafter(borders, np.inf), np.arange(first, last) + 1),
        ):
            truth = sign * as_tensor(expected.astype(bits)).double().numpy()
            found = as_tensor(rounded(sign * side[np.newaxis], bits)).double().numpy()
            assert np.array_equal(found[0], truth)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("out_bits", BITS)
@pytest.mark.parametrize("shape", [(1, 1), (7, 3), (4, 1024), (9, 1030), (3, 2100)])
@pytest.mark.parametrize("rank", [1, 4, 9])
def test_any_shape_rank_and_pair_of_dtypes(
    bits: Any, out_bits: Any, shape: tuple[int, int], rank: int
) -> None:
    generator = torch.Generator().manual_seed(rank)
    left, right, weight = (
        torch.randn(size, generator=generator, dtype=torch.float64)
        for size in ((shape[0], rank), (rank, shape[1]), shape)
    )
    stored = as_bits(weight, bits)
    change = Change(left.numpy() * 1e-3, right.numpy())
    out = np.empty(shape, out_bits)
    squares, lost, differs = change.add_to(stored, range(shape[0]), out)
    exact = as_tensor(stored).double() + 1e-3 * left @ right
    expected = nearest(exact, TORCH[out_bits])
    assert torch.equal(as_tensor(out), expected)
    assert squares == pytest.approx(float((1e-3 * left @ right).square().sum()), rel=1e-9)
    missed = 0 if out_bits == np.float32 else float((expected.double() - exact).square().sum())
    assert lost == pytest.approx(missed, rel=1e-3)
    kept = nearest(as_tensor(stored).double(), TORCH[out_bits])
    assert differs == (not torch.equal(expected, kept))


def test_rows_from_the_middle_take_their_own_part_of_the_change() -> None:
    left: Doubles = np.arange(12, dtype=np.float64).reshape(6, 2)
    stored, out = np.zeros((3, 5), np.float32), np.empty((3, 5), np.float32)
    Change(left, np.ones((2, 5))).add_to(stored, range(2, 5), out)
    assert np.array_equal(out, (left @ np.ones((2, 5)))[2:5])


def test_transposed_factors_are_laid_out_in_rows_for_the_loops() -> None:
    change = Change(np.ones((3, 6)).T, np.ones((9, 3)).T)
    assert all(factor.flags.c_contiguous for factor in change.padded)


def test_a_magnitude_gives_the_rows_their_length() -> None:
    stored, out = np.ones((5, 1030), np.float32), np.empty((5, 1030), np.float32)
    wanted: Doubles = np.arange(1, 6, dtype=np.float64)
    Change(np.ones((5, 1)), np.ones((1, 1030)) / 2, wanted).add_to(stored, range(5), out)
    assert np.linalg.norm(out, axis=1) == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("strange", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_is_seen(bits: Any, strange: float) -> None:
    values = torch.zeros(70, dtype=torch.float64)
    largest = torch.finfo(TORCH[bits]).max
    values[0], values[1] = largest, -largest
    assert kernels.finite(as_bits(values, bits))
    values[69] = strange
    assert not kernels.finite(as_bits(values, bits))
    out = np.empty((1, 70), bits)
    change = Change(np.zeros((1, 1)), np.zeros((1, 70)))
    assert not np.isfinite(change.add_to(as_bits(values[None], bits), range(1), out)[1])


@pytest.mark.parametrize(("bits", "beyond"), [(np.uint16, 65520.0), (np.int16, 3.3962e38)])
def test_results_beyond_the_dtype_are_seen(bits: Any, beyond: float) -> None:
    out = np.empty((1, 1), bits)
    change = Change(np.array([[beyond]]), np.ones((1, 1)))
    assert not np.isfinite(change.add_to(np.zeros((1, 1), np.float32), range(1), out)[1])
    assert not kernels.finite(out[0])
    Change(np.array([[beyond * 0.999]]), np.ones((1, 1))).add_to(
        np.zeros((1, 1), np.float32), range(1), out
    )
    assert kernels.finite(out[0])


@pytest.mark.parametrize("bits", [np.uint16, np.int16])
@settings(deadline=None)  # the first call compiles
@given(st.lists(st.floats(width=32), min_size=1, max_size=40))
def test_fp32_converts_as_torch_converts_it(bits: Any, values: list[float]) -> None:
    stored = np.array(values, np.float32)
    stored = np.where(np.isfinite(stored) & (abs(stored) < 2.0**-126), 0, stored)
    out = np.empty(len(values), bits)
    kernels.convert(stored, out)
    expected = torch.from_numpy(stored).to(TORCH[bits])
    finite = expected.isfinite()  # the rest is refused: its bits do not matter
    assert torch.equal(as_tensor(out)[finite], expected[finite])


def test_without_a_folder_for_the_cache_it_compiles_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compiler = numba.njit

    def refusing(cache: bool = False, **options: Any) -> Any:
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return compiler(**options)

    monkeypatch.setattr(kernels, "njit", refusing)

    def double(value: int) -> int:
        return 2 * value

    assert kernels.compiled(double)(21) == 42
