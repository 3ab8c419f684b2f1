import math
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from geoview import metrics
from geoview.metrics import ranks, recall_at, recall_within, wilson_interval

torch.set_num_threads(2)


def rank_by_counting(scores, positive):
    return [
        1 + sum(score >= row[p] for j, score in enumerate(row) if j != p)
        for row, p in zip(scores, positive, strict=True)
    ]


@given(st.integers(0, 2**32), st.integers(1, 12), st.integers(1, 9), st.integers(1, 4))
@settings(deadline=None)
def test_ranks_equal_counting(seed, n_queries, n_references, queries_a_block):
    rng = np.random.default_rng(seed)
    queries, references = rng.integers(-2, 3, (n_queries, 3)), rng.integers(-2, 3, (n_references, 3))
    positive = rng.integers(0, n_references, n_queries)
    with mock.patch.object(metrics, "_QUERIES", queries_a_block):
        found = ranks(queries.astype(np.float32), references.astype(np.float16), positive)
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, rank_by_counting(queries @ references.T, positive))


def test_a_constant_encoder_ranks_last():
    same = np.full((300, 8), 8**-0.5, np.float32)
    np.testing.assert_array_equal(ranks(same, same, np.arange(300)), 300)


def unit_basis():
    return np.eye(4, dtype=np.float32), np.eye(4, dtype=np.float32), np.arange(4)


def test_a_perfect_encoder_ranks_first():
    np.testing.assert_array_equal(ranks(*unit_basis()), 1)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_query_that_is_not_finite_ranks_last(value):
    queries, references, positive = unit_basis()
    queries[2] = value
    np.testing.assert_array_equal(ranks(queries, references, positive), [1, 1, 4, 1])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_reference_that_is_not_finite_ranks_last_and_beats_all_others(value):
    queries, references, positive = unit_basis()
    references[1] = value
    np.testing.assert_array_equal(ranks(queries, references, positive), [2, 4, 2, 2])


def test_a_reference_with_minus_infinity_beats_whatever_the_sign_of_the_query():
    references = np.array([[1, 0], [-np.inf, 0]], np.float32)
    queries = np.array([[1, 0], [-1, 0]], np.float32)
    np.testing.assert_array_equal(ranks(queries, references, np.array([0, 0])), [2, 2])


def test_no_queries():
    found = ranks(np.empty((0, 3)), np.ones((2, 3)), np.empty(0, np.int64))
    assert (found.shape, found.dtype) == ((0,), np.int64)
    assert math.isnan(recall_at(found, 1))
    assert math.isnan(recall_within(np.empty((0, 5)), 1, 10.0))


def test_recall_at():
    rank = np.array([1, 2, 5, 6])
    assert [recall_at(rank, k) for k in (1, 2, 4, 5, 6)] == [0.25, 0.5, 0.5, 0.75, 1.0]


def test_recall_within_counts_the_first_k_answers_and_no_missing_one():
    distance_m = np.array([[30.0, 10.0, np.nan], [np.nan, 100.0, 5.0], [np.nan, np.inf, np.nan], [50.0, 60.0, 70.0]])
    assert [recall_within(distance_m, k, 50.0) for k in (1, 2, 3)] == [0.5, 0.5, 0.75]
    assert recall_within(distance_m, 1, 29.9) == 0.0
    assert recall_within(distance_m, 9, 1e9) == 0.75
    assert recall_within(np.empty((3, 0)), 5, 100.0) == 0.0


@pytest.mark.parametrize(
    ("share", "n", "low", "high"),
    [(0.8, 10, 0.4902, 0.9433), (0.5, 100, 0.4038, 0.5962), (0.0, 10, 0.0, 0.2775), (1.0, 10, 0.7225, 1.0)],
)
def test_wilson_interval_of_known_numbers(share, n, low, high):
    assert wilson_interval(share, n) == pytest.approx((low, high), abs=1e-4)


@given(st.integers(1, 5_000), st.floats(0, 1), st.floats(0.5, 4))
def test_wilson_bounds_are_where_the_score_test_rejects(n, share, z):
    assume(0.01 < share < 0.99)
    low, high = wilson_interval(share, n, z)
    assert 0 < low < share < high < 1
    for bound in (low, high):
        assert abs(share - bound) == pytest.approx(z * math.sqrt(bound * (1 - bound) / n), rel=1e-6)


def test_wilson_interval_without_trials_is_everything():
    assert wilson_interval(math.nan, 0) == (0.0, 1.0)
