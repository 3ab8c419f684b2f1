from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geoview.data.sampling import BlockBatches, ShuffledBatches


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
    an_epoch = len(sampler._epoch(0)) if last_step is None else last_step
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
        assert len({int(block[row]) for _, row in batch}) <= 2
    seen = Counter(int(block[row]) for batch in block_batches(block, 40, 2) for _, row in batch)
    assert set(seen.values()) == {60}
