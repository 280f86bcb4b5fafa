"""Several files as one stream: every part has its share, and a place follows from its number."""

from collections import Counter
from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from training.data.mixture import Mixture, Part

WEIGHTS = st.lists(
    st.fractions(min_value=Fraction(1, 1000), max_value=1000, max_denominator=1000),
    min_size=2,
    max_size=6,
)


def mixture(*weights: Fraction | int, samples: int = 7, seed: int = 1) -> Mixture:
    return Mixture(tuple(Part(samples, Fraction(weight)) for weight in weights), seed)


@settings(deadline=None)
@given(WEIGHTS, st.integers(1, 400))
def test_counts_are_within_one_of_the_weights_at_every_place(
    weights: list[Fraction], places: int
) -> None:
    counts = Counter(index // 7 for index in mixture(*weights).samples(0, places))
    for number, weight in enumerate(weights):
        assert abs(counts[number] - weight / sum(weights) * places) < 1


@settings(deadline=None)
@given(WEIGHTS, st.integers(0, 200), st.integers(0, 200))
def test_a_place_does_not_depend_on_where_one_begins(
    weights: list[Fraction], start: int, count: int
) -> None:
    whole = mixture(*weights).samples(0, 400)
    assert mixture(*weights).samples(start, start + count) == whole[start : start + count]
    assert mixture(*weights, seed=2).samples(0, 400) != whole


@settings(deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=5), st.integers(1, 3))
def test_without_weights_an_epoch_has_every_sample_once_or_as_often_as_repeated(
    sizes: list[int], repeat: int
) -> None:
    parts = tuple(
        Part(size, Fraction(size * times), repeat=times)
        for size, times in zip(sizes, [repeat] + [1] * len(sizes), strict=False)
    )
    made = Mixture(parts, 3)
    for epoch in range(2):
        seen = Counter(made.samples(epoch * made.epoch, (epoch + 1) * made.epoch))
        assert seen == {i: repeat if i < sizes[0] else 1 for i in range(sum(sizes))}


def test_what_an_epoch_means_is_told() -> None:
    parts = (Part(10, Fraction(3), "a"), Part(30, Fraction(1), "b"))
    assert Mixture(parts, 1).describe() == [
        "an epoch is 40 samples",
        "  a: 10 samples, 75.0% of the stream, each 3.00 times an epoch",
        "  b: 30 samples, 25.0% of the stream, each 0.33 times an epoch",
    ]
