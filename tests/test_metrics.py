import math
import warnings
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from geoview import metrics
from geoview.metrics import (
    average_precision,
    bootstrap_interval,
    ranks,
    ranks_of_all,
    recall_at,
    recall_at_share,
    recall_within,
    wilson_interval,
)

torch.set_num_threads(2)

NOT_FINITE = (np.nan, np.inf, -np.inf)


def sorted_ranks(queries, references, true, ignored):
    """The ranks of the true references of each query, from the whole matrix of exact scores, each row sorted."""
    found = []
    for query, own, left_out in zip(queries, true, ignored, strict=True):
        gallery = []
        for row in set(range(len(references))) - (set(left_out) - set(own)):
            is_true, reference = row in own, references[row]
            if np.isfinite(query).all() and np.isfinite(reference).all():
                score = math.fsum(float(a) * float(b) for a, b in zip(query, reference, strict=True))
            else:
                score = -math.inf if is_true else math.inf
            gallery.append((-score, is_true))
        found.append([rank for rank, (_, is_true) in enumerate(sorted(gallery), 1) if is_true])
    return found


def few_values(rng, n, dtype, share_not_finite):
    """Vectors of small integers, so that many scores tie and all are exact, some of them not finite."""
    vectors = rng.integers(-2, 3, (n, 3)).astype(dtype)
    vectors[rng.random(vectors.shape) < share_not_finite] = rng.choice(NOT_FINITE)
    return vectors


def blocks(n_queries, n_references, n_pairs, dense):
    sizes = {"_QUERIES": n_queries, "_REFERENCES": n_references, "_PAIRS": n_pairs, "_DENSE": dense}
    return mock.patch.multiple(metrics, **sizes)


ANY_BLOCKS = st.builds(blocks, st.integers(1, 5), st.integers(1, 5), st.integers(1, 5), st.sampled_from([0, 0.3, 1]))
ANY_DTYPE = st.sampled_from([np.float16, np.float32, np.float64])


@given(st.integers(0, 2**32), st.integers(1, 12), st.integers(1, 9), ANY_DTYPE, st.sampled_from([0, 0.1]), ANY_BLOCKS)
@settings(deadline=None)
def test_ranks_are_those_of_the_sorted_matrix(seed, n_queries, n_references, dtype, share_not_finite, small_blocks):
    rng = np.random.default_rng(seed)
    queries = few_values(rng, n_queries, np.float32, share_not_finite)
    references = few_values(rng, n_references, dtype, share_not_finite)
    positive = rng.integers(0, n_references, n_queries)
    ignored = rng.integers(-1, n_references, (n_queries, 3))
    with small_blocks:
        found, found_among_all = (
            ranks(queries, references, positive, ignored=ignored),
            ranks(queries, references, positive),
        )
    assert found.dtype == found_among_all.dtype == np.int64
    own = positive[:, None].tolist()
    assert found[:, None].tolist() == sorted_ranks(queries, references, own, ignored)
    assert found_among_all[:, None].tolist() == sorted_ranks(queries, references, own, [[]] * n_queries)


@given(st.integers(0, 2**32), st.integers(1, 8), st.integers(4, 16), ANY_DTYPE, st.sampled_from([0, 0.1]), ANY_BLOCKS)
@settings(deadline=None)
def test_ranks_of_all_are_those_of_the_sorted_matrix(
    seed, n_queries, n_references, dtype, share_not_finite, small_blocks
):
    rng = np.random.default_rng(seed)
    queries = few_values(rng, n_queries, np.float32, share_not_finite)
    references = few_values(rng, n_references, dtype, share_not_finite)
    reference_place = rng.integers(0, 4, n_references)
    query_place = rng.choice(reference_place, n_queries)
    with small_blocks:
        rank, offsets = ranks_of_all(queries, references, query_place, reference_place)
    true = [np.flatnonzero(reference_place == place).tolist() for place in query_place]
    expected = sorted_ranks(queries, references, true, [[]] * n_queries)
    assert [each.tolist() for each in np.split(rank, offsets[1:-1])] == expected
    assert (offsets[0], offsets[-1]) == (0, len(rank))
    np.testing.assert_allclose(
        average_precision(rank, offsets), [official_average_precision(each) for each in expected]
    )


def official_average_precision(rank):
    """The rule of University-1652, hit by hit."""
    total = 0.0
    for i, r in enumerate(each - 1 for each in rank):
        old = i / r if r > 0 else 1.0
        total += (old + (i + 1) / (r + 1)) / 2 / len(rank)
    return total


def test_one_true_reference_of_each_query_ranks_alike_by_row_and_by_place():
    rng = np.random.default_rng(4)
    queries, references = rng.standard_normal((40, 8)), rng.standard_normal((70, 8))
    positive = rng.permutation(70)[:40]
    rank, offsets = ranks_of_all(queries, references, positive, np.arange(70))
    np.testing.assert_array_equal(rank, ranks(queries, references, positive))
    np.testing.assert_array_equal(offsets, np.arange(41))


def one_ulp_apart(rng, n, dim):
    """Vectors of many lengths: each with a copy and a neighbour that differs by one ulp of one element."""
    vectors = (rng.standard_normal((n, dim)) * 2.0 ** rng.integers(-12, 12, (n, 1))).astype(np.float32)
    neighbours = vectors.copy()
    element = rng.integers(0, dim, n)
    neighbours[np.arange(n), element] = np.nextafter(neighbours[np.arange(n), element], np.float32(np.inf))
    return rng.permutation(np.concatenate([vectors, vectors, neighbours]))


@pytest.mark.parametrize("dim", [1, 48])
@pytest.mark.parametrize("dense", [0, 1 / 32, 1])
@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
def test_copies_tie_and_neighbours_of_one_ulp_do_not(dim, dense, precision):
    rng = np.random.default_rng(dim)
    references = one_ulp_apart(rng, 40, dim)
    queries = rng.standard_normal((25, dim)).astype(np.float32)
    positive = rng.integers(0, 120, 25)
    reference_place = rng.integers(0, 30, 120)
    query_place = rng.choice(reference_place, 25)
    torch.set_float32_matmul_precision(precision)
    try:
        with blocks(4, 17, 5, dense):
            found = ranks(queries, references, positive)
            rank, offsets = ranks_of_all(queries, references, query_place, reference_place)
    finally:
        torch.set_float32_matmul_precision("highest")
    none = [[]] * 25
    assert found[:, None].tolist() == sorted_ranks(queries, references, positive[:, None].tolist(), none)
    true = [np.flatnonzero(reference_place == place).tolist() for place in query_place]
    expected = sorted_ranks(queries, references, true, none)
    assert [each.tolist() for each in np.split(rank, offsets[1:-1])] == expected


@pytest.mark.parametrize("dense", [0, 1])
@pytest.mark.parametrize("n_references", [2, 3, 18, 2049, 2051])
def test_a_vector_ties_with_its_copies_wherever_they_stand(n_references, dense):
    # The products of a block of one or three columns round otherwise than those of a large one.
    rng = np.random.default_rng(n_references)
    references = np.repeat(rng.standard_normal((1, 200)), n_references, axis=0)
    queries = rng.standard_normal((5, 200))
    with mock.patch.object(metrics, "_DENSE", dense):
        found = ranks(queries, references, np.array([0, 1, 1, n_references // 2, n_references - 1]))
    np.testing.assert_array_equal(found, n_references)


def test_ranks_do_not_depend_on_blocks():
    rng = np.random.default_rng(2)
    queries, references = rng.standard_normal((60, 32)), rng.standard_normal((300, 32))
    positive = rng.integers(0, 300, 60)
    # What nearly collapsed has all scores within rounding of float32.
    references = references[:1] + 1e-7 * references
    whole = ranks(queries, references, positive)
    with blocks(7, 23, 3, 1):
        np.testing.assert_array_equal(ranks(queries, references, positive), whole)
    assert len(set(whole.tolist())) > 30, "still told apart"


@pytest.mark.parametrize("scale", [1e-30, 1e-22, 1e-18, 1e18])
def test_ranks_do_not_depend_on_the_scale_of_the_vectors(scale):
    rng = np.random.default_rng(8)
    queries, references = rng.standard_normal((20, 16)), rng.standard_normal((400, 16))
    positive = rng.integers(0, 400, 20)
    expected = ranks(queries, references, positive)
    np.testing.assert_array_equal(ranks(scale * queries, scale * references, positive), expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_ranks_do_not_depend_on_the_device():
    rng = np.random.default_rng(9)
    queries, references = rng.standard_normal((600, 64)), rng.standard_normal((3_000, 64))
    positive = rng.integers(0, 3_000, 600)
    expected = ranks(queries, references, positive)
    np.testing.assert_array_equal(ranks(queries, references, positive, device="cuda"), expected)


def test_a_constant_encoder_ranks_last():
    same = np.full((300, 8), 8**-0.5, np.float32)
    np.testing.assert_array_equal(ranks(same, same, np.arange(300)), 300)


def unit_basis():
    return np.eye(4, dtype=np.float32), np.eye(4, dtype=np.float32), np.arange(4)


def test_a_perfect_encoder_ranks_first():
    np.testing.assert_array_equal(ranks(*unit_basis()), 1)


@pytest.mark.parametrize("value", [*NOT_FINITE, 3e38])
def test_a_query_that_is_not_finite_ranks_last(value):
    queries, references, positive = unit_basis()
    queries[2] = value
    np.testing.assert_array_equal(ranks(queries, references, positive), [1, 1, 4, 1])


@pytest.mark.parametrize("value", [*NOT_FINITE, 3e38])
def test_a_reference_that_is_not_finite_ranks_last_and_beats_all_others(value):
    queries, references, positive = unit_basis()
    references[1] = value
    np.testing.assert_array_equal(ranks(queries, references, positive), [2, 4, 2, 2])


def test_a_reference_with_minus_infinity_beats_whatever_the_sign_of_the_query():
    references = np.array([[1, 0], [-np.inf, 0]], np.float32)
    queries = np.array([[1, 0], [-1, 0]], np.float32)
    np.testing.assert_array_equal(ranks(queries, references, np.array([0, 0])), [2, 2])


def test_an_encoder_of_nan_finds_nothing():
    queries = np.full((5, 4), np.nan, np.float32)
    np.testing.assert_array_equal(ranks(queries, queries, np.arange(5)), 5)
    rank, offsets = ranks_of_all(queries, queries, np.array([0, 0, 1, 1, 2]), np.array([0, 0, 1, 1, 2]))
    assert rank.tolist() == [4, 5, 4, 5, 4, 5, 4, 5, 5]
    assert offsets.tolist() == [0, 2, 4, 6, 8, 9]


def test_what_was_given_stays_as_it_was():
    queries, references, positive = unit_basis()
    references[1] = np.nan
    ranks(queries, references, positive)
    assert np.isnan(references[1]).all()


def test_references_may_be_mapped_from_disk(tmp_path):
    queries, references, positive = unit_basis()
    np.save(tmp_path / "references.npy", references)
    mapped = np.load(tmp_path / "references.npy", mmap_mode="r")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("default", ResourceWarning)  # of what other tests have left open
        np.testing.assert_array_equal(ranks(queries, mapped, positive), 1)


def test_the_ignored_do_not_compete():
    queries = np.array([[1.0, 0.0]])
    references = np.array([[3.0, 0.0], [2.0, 0.0], [1.0, 0.0], [np.nan, 0.0], [0.0, 0.0]])
    positive = np.array([2])
    for ignored, expected in (([-1, -1], 4), ([0, -1], 3), ([0, 1], 2), ([0, 0], 3), ([3, 4], 3), ([2, 2], 4)):
        assert ranks(queries, references, positive, ignored=np.array([ignored])).tolist() == [expected], ignored


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.ones((1, 3)), np.ones((2, 4)), [0]), r"\(1, 3\) and references of \(2, 4\)"),
        ((np.ones((1, 3)), np.ones((2, 3)), [2]), "rows 2 to 2 for references 0 to 1"),
        ((np.ones((2, 3)), np.ones((2, 3)), [0, -1]), "positive of query 1 is -1"),
        ((np.ones((2, 3)), np.ones((2, 3)), [0]), "1 queries for 2 queries"),
    ],
)
def test_ranks_refuse_what_does_not_go_together(arguments, message):
    queries, references, positive = arguments
    with pytest.raises(ValueError, match=message):
        ranks(queries, references, np.array(positive))


def test_rows_to_ignore_are_checked():
    with pytest.raises(ValueError, match="rows -2 to 0 for references 0 to 1"):
        ranks(np.ones((1, 3)), np.ones((2, 3)), np.array([0]), ignored=np.array([[-2]]))


def test_ranks_of_all_refuse_a_query_without_a_true_reference():
    with pytest.raises(ValueError, match="place 7 of query 1 has no reference"):
        ranks_of_all(np.ones((2, 3)), np.ones((2, 3)), np.array([1, 7]), np.array([1, 2]))
    with pytest.raises(ValueError, match="for 2 queries and 2 references"):
        ranks_of_all(np.ones((2, 3)), np.ones((2, 3)), np.array([1]), np.array([1, 2]))


def test_no_queries():
    found = ranks(np.empty((0, 3)), np.ones((2, 3)), np.empty(0, np.int64))
    assert (found.shape, found.dtype) == ((0,), np.int64)
    rank, offsets = ranks_of_all(np.empty((0, 3)), np.ones((2, 3)), np.empty(0, np.int64), np.array([0, 1]))
    assert (rank.tolist(), offsets.tolist(), average_precision(rank, offsets).tolist()) == ([], [0], [])
    assert math.isnan(recall_at(found, 1))
    assert math.isnan(recall_at_share(found, 0.01, 2))
    assert math.isnan(recall_within(np.empty((0, 5)), 1, 10.0))


def test_recall_at():
    rank = np.array([1, 2, 5, 6])
    assert [recall_at(rank, k) for k in (1, 2, 4, 5, 6, 1_000)] == [0.25, 0.5, 0.5, 0.75, 1.0, 1.0]


@pytest.mark.parametrize(
    ("share", "n_references", "k"),
    [(0.01, 8_884, 88), (0.01, 90_618, 906), (0.01, 99, 1), (0.01, 3, 1), (0.01, 200, 2), (0.29, 100, 29), (1.0, 7, 7)],
)
def test_recall_at_a_share_of_the_gallery(share, n_references, k):
    assert recall_at_share(np.array([k, k + 1]), share, n_references) == 0.5
    assert recall_at_share(np.array([k, k]), share, n_references) == 1.0


def test_average_precision_of_known_ranks():
    # One hit first: 1. One hit third: (0 + 1/3) / 2. Hits first and third: ((1 + 1) / 2 + (1/2 + 2/3) / 2) / 2.
    found = average_precision(np.array([1, 3, 1, 3]), np.array([0, 1, 2, 4]))
    np.testing.assert_allclose(found, [1.0, 1 / 6, (1 + 7 / 12) / 2])


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


def test_bootstrap_interval_of_a_mean_is_that_of_the_normal_law_for_many_values():
    values = np.random.default_rng(0).normal(3.0, 2.0, 20_000)
    low, high = bootstrap_interval(values, seed=1)
    error = values.std() / math.sqrt(len(values))
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.2 * error)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.2 * error)
    narrow = bootstrap_interval(values, seed=1, level=0.5)
    assert low < narrow[0] < narrow[1] < high


@given(st.integers(0, 2**32), st.integers(2, 60), st.integers(1, 40))
@settings(deadline=None)
def test_bootstrap_draws_are_the_same_whatever_is_held_at_once(seed, n_values, held):
    values = np.random.default_rng(seed).random(n_values)
    whole = bootstrap_interval(values, seed, n=50)
    with mock.patch.object(metrics, "_DRAWS", held):
        assert bootstrap_interval(values, seed, n=50) == whole
    # A mean of one value many times over is rounded.
    assert values.min() - 1e-12 <= whole[0] <= whole[1] <= values.max() + 1e-12


def test_bootstrap_draws_whole_groups():
    # Ten queries a group that all succeed or fail together: as uncertain as one query a group, not as ten.
    hit = np.random.default_rng(3).random(200) < 0.5
    alone = bootstrap_interval(hit, seed=5)
    grouped = bootstrap_interval(np.repeat(hit, 10), seed=5, groups=np.repeat([f"g{i:03d}" for i in range(200)], 10))
    assert grouped == pytest.approx(alone)
    low, high = bootstrap_interval(np.repeat(hit, 10), seed=5)
    assert high - low < 0.5 * (alone[1] - alone[0])


def test_bootstrap_weighs_groups_by_their_size():
    # Either group drawn twice, or each once: 0, 1, or the mean of all, 9/10.
    groups = np.array(["a"] * 9 + ["b"])
    values = (groups == "a").astype(float)
    assert bootstrap_interval(values, seed=0, n=4_000, groups=groups) == (0.0, 1.0)
    assert bootstrap_interval(values, seed=0, n=4_000, level=0.02, groups=groups) == (0.9, 0.9)


def test_bootstrap_of_fewer_than_two_groups_tells_nothing():
    assert all(map(math.isnan, bootstrap_interval(np.array([]), seed=0)))
    assert all(map(math.isnan, bootstrap_interval(np.array([1.0]), seed=0)))
    assert all(map(math.isnan, bootstrap_interval(np.array([1.0, 0.0]), seed=0, groups=np.array([4, 4]))))
    with pytest.raises(ValueError, match=r"groups of shape \(3,\) for values of shape \(2,\)"):
        bootstrap_interval(np.array([1.0, 0.0]), seed=0, groups=np.arange(3))
