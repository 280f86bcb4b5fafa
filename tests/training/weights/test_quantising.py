"""Every weight is the nearest of its scale's steps; the scale is the stored one."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from training.weights.quantising import FP8, REDUCED, SCHEMES, Scheme, dequantised, quantise

GRID = np.unique(FP8[~np.isnan(FP8)])


def weights(seed: int, rows: int = 12, columns: int = 100) -> NDArray[np.float64]:
    random = np.random.default_rng(seed)
    sizes = 10.0 ** random.integers(-6, 3, (rows, 1))
    return random.standard_t(4, (rows, columns)) * sizes


@settings(deadline=None)
@given(st.integers(0, 1000), st.booleans())
def test_int8_is_the_nearest_to_the_exact_weight_bit_for_bit(seed: int, clip: bool) -> None:
    exact = weights(seed)
    made = quantise(exact, SCHEMES["int8"], clip=clip)
    if not clip:
        peaks = np.abs(exact).max(axis=1)
        assert np.array_equal(made.scales, (peaks / 127).astype(np.float32))
    steps = np.rint(exact / made.scales.astype(np.float64)[:, None])
    assert np.array_equal(made.codes.view(np.int8), np.clip(steps, -127, 127))


@settings(deadline=None)
@given(st.integers(0, 1000), st.booleans())
def test_a_reduced_range_never_overflows_16_bits(seed: int, clip: bool) -> None:
    exact = weights(seed)
    made = quantise(exact, replace(SCHEMES["int8"], largest=REDUCED), clip=clip)
    codes = made.codes.view(np.int8)
    assert np.abs(codes.astype(int)).max() * 2 * 255 < 2**15
    assert np.array_equal(
        codes, np.clip(np.rint(exact / made.scales[:, None].astype(float)), -64, 64)
    )


@settings(deadline=None)
@given(st.integers(0, 1000))
def test_fp8_is_the_nearest_of_all_its_values(seed: int) -> None:
    exact = weights(seed, columns=20)
    made = quantise(exact, SCHEMES["fp8"])
    peaks = np.abs(exact).max(axis=1)
    assert np.array_equal(made.scales, (peaks / 448).astype(np.float32))
    steps = exact / made.scales.astype(np.float64)[:, None]
    distances = np.abs(np.clip(steps, -448, 448)[..., None] - GRID)
    chosen = FP8[made.codes]
    assert np.array_equal(np.abs(chosen - np.clip(steps, -448, 448)), distances.min(axis=-1))


def test_half_way_between_two_values_of_fp8_the_even_code_is_taken() -> None:
    middles = (GRID[1:] + GRID[:-1]) / 2
    exact = np.append(middles, 448.0)[None]  # so that the scale is 1
    codes = quantise(exact, SCHEMES["fp8"]).codes[0, :-1]
    assert not (codes & 1).any()


def test_codes_of_fp8_are_torch_s() -> None:
    codes = torch.arange(256, dtype=torch.uint8)
    values = codes.view(torch.float8_e4m3fn).double().numpy()
    assert np.array_equal(values, FP8, equal_nan=True)


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=lambda scheme: scheme.name)
def test_a_row_of_zeros_has_a_scale_all_the_same(scheme: Scheme) -> None:
    made = quantise(np.zeros((2, 8)), scheme)
    assert (made.scales > 0).all()
    assert not dequantised(made.codes, made.scales, scheme).any()
    assert made.error.share == 0


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=lambda scheme: scheme.name)
def test_clipping_loses_no_more_and_the_error_is_told(scheme: Scheme) -> None:
    exact = weights(3, rows=50)
    whole, clipped = (quantise(exact, scheme, clip=clip) for clip in (False, True))
    for made in (whole, clipped):
        missed = dequantised(made.codes, made.scales, scheme) - exact
        share = np.linalg.norm(missed) / np.linalg.norm(exact)
        assert made.error.share == pytest.approx(share, rel=1e-9)
    per_row = [
        ((dequantised(made.codes, made.scales, scheme) - exact) ** 2).sum(axis=1)
        for made in (whole, clipped)
    ]
    assert (per_row[1] <= per_row[0]).all()
    assert (per_row[1] < per_row[0]).any()


def test_rounding_first_to_16_bits_gives_other_weights() -> None:
    """What everyone else does: merge into fp16, then quantise."""
    exact = weights(5, rows=200, columns=500)
    once = quantise(exact, SCHEMES["int8"]).codes
    twice = quantise(exact.astype(np.float16).astype(np.float64), SCHEMES["int8"]).codes
    share = (once != twice).mean()
    print(f"{share:.2%} of the weights differ when they are rounded to fp16 first")
    assert 0 < share < 0.1
