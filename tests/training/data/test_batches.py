from collections import Counter
from fractions import Fraction

import pytest

from training.data.batches import SampleOrder, micro_batches, updates_of
from training.data.mixture import Mixture, Part

LENGTHS = tuple((index * 37) % 101 for index in range(90))


def order(updates: int = 75, grouped: bool = True, seed: int = 1) -> SampleOrder:
    one = Mixture((Part(90, Fraction(90)),), seed)
    return SampleOrder(LENGTHS, batch_size=6, updates=updates, mixture=one, grouped=grouped)


@pytest.mark.parametrize("grouped", [True, False])
def test_every_epoch_sees_every_sample_once(grouped: bool) -> None:
    made = order(updates=75, grouped=grouped)  # 450 samples: five epochs of 90
    seen = Counter(index for update in range(75) for index in made.batch(update))
    assert seen == dict.fromkeys(range(90), 5)


def test_an_update_depends_on_its_number_alone() -> None:
    forwards = [order().batch(update) for update in range(75)]
    made = order()
    assert [made.batch(update) for update in reversed(range(75))] == forwards[::-1]
    assert order(seed=2).batch(0) != forwards[0]


def test_grouped_batches_hold_samples_of_like_length_in_random_order() -> None:
    def spread(grouped: bool) -> float:
        batches = [order(grouped=grouped).batch(update) for update in range(75)]
        return sum(max(LENGTHS[i] for i in b) - min(LENGTHS[i] for i in b) for b in batches) / 75

    assert spread(grouped=True) < spread(grouped=False) / 5
    longest = [max(LENGTHS[index] for index in order().batch(update)) for update in range(50)]
    assert longest != sorted(longest)


def test_epochs_become_updates_rounded_up() -> None:
    assert updates_of(samples=90, batch_size=8, epochs=1) == 12
    assert updates_of(samples=90, batch_size=6, epochs=2.5) == 38
    assert updates_of(samples=3, batch_size=64, epochs=1) == 1


def test_processes_share_a_batch_without_overlap() -> None:
    batch = order().batch(0)
    shares = [micro_batches(batch, rank, 2, size=2) for rank in range(2)]
    assert [[len(piece) for piece in share] for share in shares] == [[2, 1], [2, 1]]
    assert sorted(index for share in shares for piece in share for index in piece) == sorted(batch)
    assert micro_batches(batch, 0, 1, size=None) == [batch]
