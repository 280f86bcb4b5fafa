"""GPTQ against the textbook's form of it in fp64; scales; what cannot be rounded."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from training.errors import TrainingError
from training.gptq.rounding import Inputs, as_stored, best_scales, quantise

Doubles = NDArray[np.float64]


def layer(seed: int, rows: int, columns: int, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights, and inputs that lie mostly in `rank` directions, as those of real layers do."""
    torch.manual_seed(seed)
    weight = torch.randn(rows, columns)
    inputs = torch.randn(400, rank) @ torch.randn(rank, columns) + 0.2 * torch.randn(400, columns)
    return weight, inputs


def given_inputs(rows: torch.Tensor) -> Inputs:
    made = Inputs.of(rows.shape[1], torch.device("cpu"))
    for part in rows.chunk(3):
        made.add(part[None])
    return made


def textbook(weight: Doubles, total: Doubles, scales: Doubles) -> Doubles:
    """Codes by equations 2 and 3 of the paper: the inverse loses a row and a column each time."""
    total = total + 0.01 * np.diag(total).mean() * np.eye(len(total))
    inverse, rest = np.linalg.inv(total), weight.copy()
    codes = np.empty_like(weight)
    for column in np.argsort(-np.diag(total), kind="stable"):
        codes[:, column] = np.clip(np.rint(rest[:, column] / scales[:, column]), -8, 7)
        lost = rest[:, column] - codes[:, column] * scales[:, column]
        rest -= np.outer(lost / inverse[column, column], inverse[column])
        pivot = inverse[column, column]
        inverse = inverse - np.outer(inverse[:, column], inverse[column]) / pivot
    return codes


@pytest.mark.parametrize(
    ("columns", "rank", "group"), [(64, 8, 32), (320, 40, 64), (256, 256, 128)]
)
def test_the_codes_are_those_of_the_paper(columns: int, rank: int, group: int) -> None:
    weight, rows = layer(1, 48, columns, rank)
    made = quantise(weight, given_inputs(rows), group)
    total = (rows.double().T @ rows.double()).numpy()
    scales = made.scales.double().repeat_interleave(group, dim=1).numpy()
    expected = textbook(weight.double().numpy(), total, scales)
    # a code that lies half way between two may fall to either side in fp32, and others follow it
    assert (made.codes.numpy() == expected).mean() > 0.98
    exact = weight.double().numpy()

    def moved(values: Doubles) -> float:
        return float(np.linalg.norm((values - exact) @ rows.double().numpy().T))

    assert moved(made.weight.double().numpy()) == pytest.approx(moved(expected * scales), rel=0.02)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 1000), st.sampled_from([32, 64, 128]))
def test_the_errors_told_are_those_of_the_outputs(seed: int, group: int) -> None:
    weight, rows = layer(seed, 24, 128, 16)
    made = quantise(weight, given_inputs(rows), group)
    exact, inputs = weight.double(), rows.double()
    scales = made.scales.repeat_interleave(group, dim=1)
    nearest = (weight / scales).round().clamp(-8, 7) * scales

    def share(values: torch.Tensor) -> float:
        return float(((values.double() - exact) @ inputs.T).norm() / (exact @ inputs.T).norm())

    assert made.outputs_error == pytest.approx(share(made.weight), rel=1e-3)
    assert made.nearest_error == pytest.approx(share(nearest), rel=1e-3)
    assert made.outputs_error < 0.8 * made.nearest_error
    moved = float((made.weight - weight).norm() / weight.norm())
    assert made.weights_error == pytest.approx(moved, rel=1e-3)


def test_inputs_that_tell_nothing_of_each_other_leave_each_weight_at_its_nearest() -> None:
    weight = torch.randn(16, 64, generator=torch.Generator().manual_seed(0))
    made = quantise(weight, Inputs(torch.diag(torch.rand(64) + 0.1)), 32)
    nearest = (weight / made.scales.repeat_interleave(32, dim=1)).round().clamp(-8, 7)
    assert torch.equal(made.codes.float(), nearest)


@settings(deadline=None)
@given(st.integers(0, 1000), st.integers(-20, 12))
def test_scales_are_the_same_in_bf16_and_fp16(seed: int, exponent: int) -> None:
    weight = torch.randn(8, 64, generator=torch.Generator().manual_seed(seed)) * 2.0**exponent
    scales = best_scales(weight, torch.ones(64), 32)
    assert torch.equal(scales, scales.bfloat16().float())
    assert torch.equal(scales, scales.half().float())
    assert (scales > 0).all()


def test_scales_lose_less_than_the_whole_range_does() -> None:
    weight = torch.randn(64, 256, generator=torch.Generator().manual_seed(0))
    importance = torch.rand(256) ** 4

    def missed(scales: torch.Tensor) -> torch.Tensor:
        each = scales.repeat_interleave(64, dim=1)
        lost = (weight / each).round().clamp(-8, 7) * each - weight
        return (lost.square() * importance).view(64, 4, 64).sum(dim=2)

    whole = as_stored(weight.view(64, 4, 64).abs().amax(dim=2) / 7)
    chosen = missed(best_scales(weight, importance, 64))
    assert (chosen <= missed(whole)).all()
    assert chosen.sum() < 0.9 * missed(whole).sum()


def test_rows_and_columns_of_zeros_are_taken() -> None:
    weight, rows = layer(2, 8, 64, 8)
    weight[3] = 0
    rows[:, 5] = 0  # a unit that never fires
    made = quantise(weight, given_inputs(rows), 32)
    assert not made.codes[3].any()
    assert made.weight.isfinite().all()


def test_fewer_inputs_than_columns_are_enough() -> None:
    weight, rows = layer(3, 8, 128, 4)
    made = quantise(weight, given_inputs(rows[:6]), 64)
    assert made.outputs_error < made.nearest_error


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_not_finite_is_refused(value: float) -> None:
    weight, rows = layer(4, 8, 64, 8)
    rows[7, 7] = value
    with pytest.raises(TrainingError, match="inputs are all 0 or not finite"):
        quantise(weight, given_inputs(rows), 32)
    with pytest.raises(TrainingError, match="inputs are all 0"):
        quantise(weight, Inputs.of(64, torch.device("cpu")), 32)
