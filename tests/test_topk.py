import gc
import threading
import weakref
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geoview import topk
from geoview.topk import merged_top_k, top_k, top_k_of

torch.set_num_threads(2)


def by_full_sort(queries, references, k):
    """All products, all sorted: by score, then by row; -1 and -inf where rows are wanting or scores not finite."""
    with np.errstate(all="ignore"):
        scores = queries.astype(np.float64) @ references.astype(np.float64).T
    rows = np.full((len(queries), k), -1)
    found = np.full((len(queries), k), -np.inf)
    for i, score in enumerate(scores):
        best = [j for j in np.lexsort((np.arange(len(score)), -score)) if np.isfinite(score[j])][:k]
        rows[i, : len(best)], found[i, : len(best)] = best, score[best]
    return rows, found


def whole(references):
    return [(np.arange(len(references)), references)]


def halves(references):
    middle = len(references) // 2
    return [(np.arange(middle, len(references)), references[middle:]), (np.arange(middle), references[:middle])]


def test_rows_may_have_gaps():
    rows, _ = top_k(np.array([[1.0]]), [(np.array([3, 70, 71]), np.array([[1.0], [3.0], [2.0]]))], 2)
    np.testing.assert_array_equal(rows, [[70, 71]])


@st.composite
def searches(draw):
    # Small integers: their products are exact in every type, and many of them tie.
    n_queries, n, dim = draw(st.integers(0, 7)), draw(st.integers(0, 60)), draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    dtype = draw(st.sampled_from([np.float16, np.float32, np.float64]))
    references = rng.integers(-2, 3, (n, dim)).astype(dtype)
    references[rng.random(n) < draw(st.sampled_from([0.0, 0.3]))] = draw(st.sampled_from([np.nan, np.inf, -np.inf]))
    queries = rng.integers(-2, 3, (n_queries, dim)).astype(draw(st.sampled_from([np.float16, np.float32])))
    cuts = sorted(draw(st.lists(st.integers(0, n), max_size=5)))
    blocks = [(np.arange(a, b), references[a:b]) for a, b in zip([0, *cuts], [*cuts, n], strict=True)]
    return queries, references, draw(st.permutations(blocks)), draw(st.integers(1, 70))


@given(
    searches(),
    st.fixed_dictionaries(
        {
            "_PRODUCTS": st.integers(1, 300),
            "_QUERIES": st.integers(1, 8),
            "_ELEMENTS": st.sampled_from([1, 9, 2**20]),  # of a piece that is made float32
            "_ROWS": st.sampled_from([5, 2**14]),
            "_ALONE": st.sampled_from([0, 500]),
        }
    ),
)
@settings(deadline=None, max_examples=300)
def test_equals_a_full_sort_whatever_the_blocks(search, sizes):
    queries, references, blocks, k = search
    with mock.patch.multiple(topk, **sizes):
        rows, scores = top_k(queries, blocks, k)
    expected_rows, expected_scores = by_full_sort(queries, references, k)
    assert rows.dtype == np.int64
    assert scores.dtype == np.float32
    np.testing.assert_array_equal(rows, expected_rows)
    np.testing.assert_array_equal(scores, expected_scores)


def test_random_unit_vectors_over_real_block_sizes():
    rng = np.random.default_rng(0)
    references = rng.normal(size=(20_000, 16)).astype(np.float32)
    queries = rng.normal(size=(1_100, 16)).astype(np.float32)
    rows, scores = top_k(
        queries, [(np.arange(9_001, 20_000), references[9_001:]), (np.arange(9_001), references[:9_001])], 7
    )
    expected = queries @ references.T
    np.testing.assert_array_equal(rows, np.argsort(-expected, axis=1, kind="stable")[:, :7])
    np.testing.assert_allclose(scores, np.take_along_axis(expected, rows, axis=1), rtol=1e-5)


def test_more_ties_than_places_come_in_the_order_of_the_rows():
    references = np.ones((20_000, 4), np.float16)
    references[123] = 2
    references[5_000:6_000] = 0.5
    rows, scores = top_k(np.ones((3, 4), np.float32), halves(references), 6)
    np.testing.assert_array_equal(rows, [[123, 0, 1, 2, 3, 4]] * 3)
    np.testing.assert_array_equal(scores, [[8, 4, 4, 4, 4, 4]] * 3)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_is_never_returned(value):
    references = np.eye(3, dtype=np.float32)
    references[1] = value
    rows, scores = top_k(np.array([[1, 2, 3], [-1, -2, -3]], np.float32), whole(references), 3)
    np.testing.assert_array_equal(rows, [[2, 0, -1], [0, 2, -1]])
    np.testing.assert_array_equal(scores, [[3, 1, -np.inf], [-1, -3, -np.inf]])


def test_a_query_that_is_not_finite_finds_nothing():
    rows, scores = top_k(np.full((1, 3), np.nan, np.float32), whole(np.ones((9, 3), np.float32)), 2)
    np.testing.assert_array_equal(rows, [[-1, -1]])
    np.testing.assert_array_equal(scores, [[-np.inf, -np.inf]])


def test_a_product_that_overflows_does_not_win():
    references = np.array([[1e30, 0], [0, 1]], np.float32)
    rows, _ = top_k(np.array([[1e30, 1]], np.float32), whole(references), 1)
    assert rows.item() == 1


def test_half_precision_is_multiplied_in_single():
    # 300 x 300 summed is beyond the largest float16.
    rows, scores = top_k(np.full((1, 2), 300, np.float16), whole(np.full((1, 2), 300, np.float16)), 1)
    assert (rows.item(), scores.item()) == (0, 180_000)


def test_blocks_may_grow():
    references = np.random.default_rng(0).integers(-9, 9, (3_000, 4)).astype(np.float32)
    blocks = [(np.arange(a, b), references[a:b]) for a, b in ((0, 10), (10, 400), (400, 3_000))]
    for found, expected in zip(
        top_k(references[:5], blocks, 7), by_full_sort(references[:5], references, 7), strict=True
    ):
        np.testing.assert_array_equal(found, expected)


def test_without_queries_or_blocks():
    rows, scores = top_k(np.empty((0, 3), np.float32), whole(np.ones((4, 3), np.float32)), 2)
    assert (rows.shape, rows.dtype, scores.shape, scores.dtype) == ((0, 2), np.int64, (0, 2), np.float32)
    rows, scores = top_k(np.ones((2, 3), np.float32), [], 2)
    np.testing.assert_array_equal(rows, [[-1, -1], [-1, -1]])
    np.testing.assert_array_equal(scores, np.full((2, 2), -np.inf))


# One thread holds the block before while the next is being made; of several, each may hold one, beside the first of
# theirs and the one that is being cut.
@pytest.mark.parametrize(("alone", "most_held"), [(topk._ALONE, 1), (0, 2 + torch.get_num_threads())])
def test_memory_does_not_grow_with_the_rows(monkeypatch, alone, most_held):
    monkeypatch.setattr(topk, "_ALONE", alone)
    n, dim = 1_000, 4
    references, held, elements = [], [], []

    def blocks():
        for i in range(16):
            held.append(sum(ref() is not None for ref in references))
            elements.append(sum(o.numel() for o in gc.get_objects() if type(o) is torch.Tensor))
            block = np.random.default_rng(i).normal(size=(n, dim)).astype(np.float32)
            references.append(weakref.ref(block))
            yield np.arange(i * n, (i + 1) * n), block
            del block

    rows, _ = top_k(np.ones((50, dim), np.float32), blocks(), 3)
    assert rows.max() > 4 * n
    assert max(held) <= most_held
    if most_held == 1:
        # Rows that may be better wait until they are as many as the best: query, row and score of each.
        assert max(elements[2:]) <= elements[1] + 3 * 50 * 3


def test_each_thread_computes_alone_and_no_other_thread_notices(monkeypatch):
    monkeypatch.setattr(topk, "_ALONE", 0)
    n_threads = []

    def count():
        n_threads.append(torch.get_num_threads())

    def blocks():
        for i in range(5):
            count()
            yield np.arange(100 * i, 100 * i + 100), np.ones((100, 4), np.float32)

    top_k(np.ones((3, 4), np.float32), blocks(), 3)
    count()
    later = threading.Thread(target=count)
    later.start()
    later.join()
    # The first block is asked for before there are threads.
    assert n_threads == [2, 1, 1, 1, 1, 2, 2]


def test_what_a_block_raises_in_a_thread_is_raised(monkeypatch):
    monkeypatch.setattr(topk, "_ALONE", 0)

    def blocks():
        yield from whole(np.ones((100, 4), np.float32))
        yield from whole(np.ones((100, 4), np.float32))
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        top_k(np.ones((3, 4), np.float32), blocks(), 3)


def test_a_query_that_all_rows_tie_for_costs_the_others_nothing():
    rng = np.random.default_rng(0)
    references = rng.normal(size=(5_000, 8)).astype(np.float16)
    queries = rng.normal(size=(40, 8)).astype(np.float32)
    queries[7] = 0
    rows, scores = top_k(queries, halves(references), 20)
    np.testing.assert_array_equal(rows[7], np.arange(20))
    expected = queries @ references.astype(np.float32).T
    np.testing.assert_array_equal(rows, np.argsort(-expected, axis=1, kind="stable")[:, :20])
    assert not scores[7].any()


def test_zeros_of_either_sign_tie():
    rows, _ = top_k(np.array([[1.0]]), [(np.array([5]), np.array([[0.0]])), (np.array([2]), np.array([[-0.0]]))], 2)
    assert rows.tolist() == [[2, 5]]


def test_tensors_may_be_given_too():
    vectors = torch.eye(3, dtype=torch.float16)
    rows, _ = top_k(np.array([[1, 3, 2]]), [(torch.arange(3), vectors)], 2)
    assert rows.tolist() == [[1, 2]]


@pytest.mark.parametrize("k", [0, -3])
def test_k_below_one_is_refused(k):
    with pytest.raises(ValueError, match=f"k must be at least 1, is {k}"):
        top_k(np.ones((1, 2), np.float32), [], k)


def test_vectors_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="5 and 3 elements"):
        top_k(np.ones((1, 3), np.float32), whole(np.ones((2, 5), np.float32)), 1)


@pytest.mark.parametrize("at_once", [7, 2048])
@pytest.mark.parametrize("k", [1, 5, 40])
def test_candidates_are_scored_as_if_they_were_all_that_there_is(monkeypatch, k, at_once):
    monkeypatch.setattr(topk, "_CANDIDATES", at_once)
    rng = np.random.default_rng(0)
    vectors, queries = rng.normal(size=(200, 8)).astype(np.float32), rng.normal(size=(9, 8))
    candidates = np.stack([rng.permutation(200)[:30] for _ in queries])
    candidates[3, 4:], candidates[4] = -1, -1
    asked = []

    def vectors_of(numbers):
        asked.append(numbers)
        return vectors[numbers].astype(np.float16)

    rows, scores = top_k_of(queries, candidates, vectors_of, k)
    assert max(map(len, asked)) <= at_once
    # Ascending through all queries, as they lie on disk, and what several want only once.
    assert all((np.diff(numbers) > 0).all() for numbers in asked)
    assert (np.diff(np.concatenate(asked)) >= 0).all()
    np.testing.assert_array_equal(np.unique(np.concatenate(asked)), np.unique(candidates[candidates >= 0]))
    for mine, found, score, query in zip(candidates, rows, scores, queries, strict=True):
        there = np.sort(mine[mine >= 0])
        wanted, best = top_k(query[None], [(there, vectors[there].astype(np.float16))], k)
        assert found.tolist() == wanted[0].tolist()
        np.testing.assert_allclose(score, best[0], rtol=1e-5, atol=1e-6)


def test_candidates_that_tie_come_in_the_order_of_the_rows():
    rows, scores = top_k_of(np.ones((1, 2)), np.array([[9, 4, 7]]), lambda rows: np.ones((len(rows), 2)), 3)
    assert rows.tolist() == [[4, 7, 9]]
    assert scores.tolist() == [[2.0, 2.0, 2.0]]


def test_of_candidates_that_tie_for_the_last_place_the_first_row_has_it():
    vectors = np.ones((100, 2), np.float32)
    vectors[[3, 50]] = 2.0
    candidates = np.random.default_rng(0).permutation(100)[None].repeat(5, axis=0)
    rows, _ = top_k_of(np.ones((5, 2)), candidates, vectors.__getitem__, 4)
    assert rows.tolist() == [[3, 50, 0, 1]] * 5


@pytest.mark.filterwarnings("error", "default::ResourceWarning")
def test_a_candidate_that_is_not_finite_is_never_returned():
    vectors = np.array([[np.nan, 1], [np.inf, 1], [1, 1], [np.inf, -np.inf]], np.float32)
    rows, scores = top_k_of(np.ones((1, 2)), np.array([[0, 1, 2, 3]]), lambda rows: vectors[rows], 3)
    assert rows.tolist() == [[2, -1, -1]]
    assert np.isneginf(scores[0, 1:]).all()


def test_no_queries_have_no_candidates():
    rows, scores = top_k_of(np.ones((0, 2)), np.empty((0, 5), np.int64), lambda rows: np.ones((len(rows), 2)), 3)
    assert rows.shape == scores.shape == (0, 3)


def test_merged_rows_are_the_best_of_both():
    one = np.array([[3, 1, -1]]), np.array([[0.9, 0.5, -np.inf]], np.float32)
    other = np.array([[2, 8]]), np.array([[0.9, 0.7]], np.float32)
    rows, scores = merged_top_k(one, other)
    assert rows.tolist() == [[2, 3]]
    assert scores.tolist() == [[np.float32(0.9), np.float32(0.9)]]
