from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree

from geoview.data.sampling import BlockBatches, HardBatches, Share, ShuffledBatches


def batches(n_pairs, batch_size, first_step, last_step, seed=0):
    return list(ShuffledBatches(n_pairs, batch_size, seed=seed, first_step=first_step, last_step=last_step))


sizes = st.tuples(st.integers(1, 60), st.integers(2, 20))


@given(sizes, st.integers(0, 9))
@settings(deadline=None)
def test_an_epoch_holds_every_pair_once_in_batches_of_nearly_equal_size(size, epoch):
    n_pairs, batch_size = size
    an_epoch = -(-n_pairs // batch_size)
    drawn = batches(n_pairs, batch_size, epoch * an_epoch, (epoch + 1) * an_epoch)
    assert sorted(row for batch in drawn for _, row in batch) == list(range(n_pairs))
    lengths = [len(batch) for batch in drawn]
    assert max(lengths) <= batch_size
    assert max(lengths) - min(lengths) <= 1


@given(sizes, st.integers(0, 2**31), st.integers(0, 40), st.integers(0, 40), st.integers(0, 40))
@settings(deadline=None)
def test_a_run_that_goes_on_has_the_batches_it_would_have_had(size, seed, a, b, c):
    first, middle, last = sorted((a, b, c))
    whole = batches(*size, 0, last, seed)
    assert batches(*size, first, middle, seed) + batches(*size, middle, last, seed) == whole[first:]


@given(sizes, st.integers(0, 40))
@settings(deadline=None)
def test_no_pair_meets_itself_and_every_row_is_keyed_by_its_step(size, first):
    sampler = ShuffledBatches(*size, seed=1, first_step=first, last_step=first + 20)
    drawn = list(sampler)
    assert len(drawn) == len(sampler) == 20
    for step, batch in enumerate(drawn, start=first):
        assert {s for s, _ in batch} == {step}
        assert len({row for _, row in batch}) == len(batch)


@given(sizes, st.integers(1, 5), st.integers(0, 20))
@settings(deadline=None)
def test_processes_read_together_what_one_would_read_alone(size, processes, first):
    whole = ShuffledBatches(*size, seed=1, first_step=first, last_step=first + 5)
    shares = [list(Share(whole, rank, processes)) for rank in range(processes)]
    assert all(len(share) == len(Share(whole, 0, processes)) == 5 for share in shares)
    for step, batch in enumerate(whole):
        parts = [share[step] for share in shares]
        assert sorted(pair for part in parts for pair in part) == sorted(batch)
        lengths = [len(part) for part in parts]
        assert max(lengths) - min(lengths) <= 1


def test_epochs_and_seeds_differ():
    rows = [
        tuple(row for batch in batches(50, 10, *steps, seed) for _, row in batch)
        for steps, seed in [((0, 5), 0), ((5, 10), 0), ((0, 5), 1)]
    ]
    assert len(set(rows)) == 3
    assert rows[0] != tuple(range(50))


def test_every_two_pairs_meet_about_equally_often():
    together = Counter(
        frozenset((a, b)) for batch in batches(8, 4, 0, 2 * 1_000) for _, a in batch for _, b in batch if a < b
    )
    # A pair of rows shares one of the two batches with probability 3 / 7.
    assert len(together) == 28
    assert min(together.values()) == pytest.approx(1_000 * 3 / 7, rel=0.15)
    assert max(together.values()) == pytest.approx(1_000 * 3 / 7, rel=0.15)


def test_nothing_left_to_do():
    assert batches(10, 5, 7, 7) == []


# -- neighbours --------------------------------------------------------------------------------------------------------


def block_batches(block, batch_size, parts, first_step=0, last_step=None, seed=0):
    sampler = BlockBatches(np.array(block, np.uint64), batch_size, parts, seed=seed, first_step=0, last_step=0)
    an_epoch = len(sampler.epoch(0)) if last_step is None else last_step
    return list(
        BlockBatches(
            np.array(block, np.uint64), batch_size, parts, seed=seed, first_step=first_step, last_step=an_epoch
        )
    )


blocks = st.lists(st.integers(0, 5), min_size=1, max_size=80)


@given(blocks, st.integers(2, 20), st.integers(1, 4), st.integers(0, 99))
@settings(deadline=None)
def test_an_epoch_of_neighbours_holds_every_pair_once(block, batch_size, parts, seed):
    drawn = block_batches(block, batch_size, parts, seed=seed)
    assert sorted(row for batch in drawn for _, row in batch) == list(range(len(block)))
    assert max(map(len, drawn)) <= batch_size


@given(blocks, st.integers(2, 20), st.integers(1, 4), st.integers(0, 30), st.integers(0, 30))
@settings(deadline=None)
def test_a_run_of_neighbours_that_goes_on_has_the_batches_it_would_have_had(block, batch_size, parts, a, b):
    middle, last = sorted((a, b))
    whole = block_batches(block, batch_size, parts, 0, last)
    assert block_batches(block, batch_size, parts, middle, last) == whole[middle:]


def test_a_batch_meets_few_blocks():
    block = np.repeat(np.arange(10), 60)
    for batch in block_batches(block, 40, 2):
        assert len({int(block[row]) for _, row in batch}) <= 3  # two pieces' worth, cut anywhere
    seen = Counter(int(block[row]) for batch in block_batches(block, 40, 2) for _, row in batch)
    assert set(seen.values()) == {60}


# -- hard batches ------------------------------------------------------------------------------------------------------


def hard_epoch(place, neighbours, batch_size, *, epoch=0, seed=0, **options):
    place, neighbours = np.asarray(place), np.asarray(neighbours, np.int64)
    return HardBatches(place, neighbours, batch_size, seed=seed, first_step=0, last_step=0, **options).epoch(epoch)


@st.composite
def crowds(draw):
    """Pairs of a few places, each with places like its own."""
    place = draw(st.lists(st.integers(0, 12), min_size=1, max_size=60))
    k = draw(st.integers(0, 6))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    return np.array(place) * 7 - 3, rng.integers(-1, 14, (len(place), k)) * 7 - 3


@given(crowds(), st.integers(2, 20), st.integers(1, 8), st.integers(0, 3))
@settings(deadline=None)
def test_a_hard_epoch_holds_every_pair_once_and_no_place_twice_in_a_batch(crowd, batch_size, with_seed, epoch):
    place, neighbours = crowd
    drawn = hard_epoch(place, neighbours, batch_size, epoch=epoch, neighbours_a_seed=with_seed)
    assert sorted(np.concatenate(drawn)) == list(range(len(place)))
    assert all(len(np.unique(place[batch])) == len(batch) <= batch_size for batch in drawn)
    assert max(map(len, drawn)) - min(map(len, drawn)) <= 1
    assert len(drawn) == max(-(-len(place) // batch_size), np.bincount(place + 3).max()), "as many in every epoch"


@given(crowds(), st.integers(0, 30), st.integers(0, 30))
@settings(deadline=None)
def test_a_run_of_hard_batches_that_goes_on_has_the_batches_it_would_have_had(crowd, a, b):
    middle, last = sorted((a, b))
    parts = [list(HardBatches(*crowd, 5, seed=3, first_step=i, last_step=j)) for i, j in ((0, last), (middle, last))]
    assert parts[0][middle:] == parts[1]


@pytest.fixture(scope="module")
def square():
    """The 64 nearest of each of 4,000 points in a square."""
    points = np.random.default_rng(0).random((4_000, 2))
    return cKDTree(points).query(points, 65)[1][:, 1:]


def hardness(batch, neighbours):
    """How many of its neighbours a pair meets, on average."""
    inside = np.zeros(len(neighbours), np.bool_)
    inside[batch] = True
    return inside[neighbours[batch]].sum(axis=1).mean()


def test_an_epoch_is_as_hard_at_its_end(square):
    drawn = hard_epoch(np.arange(4_000), square, 64, neighbours_a_seed=32)
    hard = np.array([hardness(batch, square) for batch in drawn])
    at_random = np.mean([hardness(np.random.default_rng(i).permutation(4_000)[:64], square) for i in range(9)])
    assert at_random < 2
    assert hard.min() > 15
    assert hard.mean() > 25
    assert hard[-6:].mean() > 0.85 * hard[:6].mean()


def test_half_of_a_seeds_neighbours_are_the_nearest_and_half_are_drawn():
    # Circles of 66 pairs, each like the next ones around its own circle.
    circle, step = np.divmod(np.arange(40 * 66), 66)
    neighbours = 66 * circle[:, None] + (step[:, None] + np.arange(1, 66)) % 66
    met = []
    for batch in hard_epoch(np.arange(40 * 66), neighbours, 33, neighbours_a_seed=32):
        assert len(set(circle[batch])) == 1
        seeds = [row for row in np.isin(neighbours[batch], batch) if row[:16].all()]
        met += seeds[-1:]
    share = np.mean(met, axis=0)[16:]
    assert len(met) >= 40
    assert share.mean() == pytest.approx(16 / 49)
    assert 0.05 < share.min() < share.max() < 0.75, "sixteen of forty-nine, never the same"


def test_epochs_of_hard_batches_differ(square):
    one, other = (hard_epoch(np.arange(4_000), square, 64, epoch=epoch) for epoch in (0, 1))
    partners = [{frozenset(map(int, batch)) for batch in epoch} for epoch in (one, other)]
    assert not partners[0] & partners[1]
    again = hard_epoch(np.arange(4_000), square, 64, epoch=1)
    assert all(np.array_equal(a, b) for a, b in zip(other, again, strict=True))
