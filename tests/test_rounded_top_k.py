from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geoview import rounded_top_k, topk
from geoview.rounded_top_k import Rounded, near, pair_products
from geoview.topk import top_k


@pytest.fixture
def on_any_processor(monkeypatch):
    monkeypatch.setattr(rounded_top_k, "bfloat16_is_faster", lambda: True)
    monkeypatch.setattr(topk, "_ROUNDED_QUERIES", 1)


def memory():
    return torch.empty(0, dtype=torch.bfloat16)


@st.composite
def worst_cases(draw):
    """Queries and rows that round badly: all elements near the middle between two numbers of bfloat16, of any size."""
    n_queries, n, dim = draw(st.integers(1, 6)), draw(st.integers(1, 200)), draw(st.integers(1, 70))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    middle = 1 + 2.0**-8 + draw(st.sampled_from([-1, 1])) * 2.0**-20

    def vectors(count):
        signs = rng.choice([-1, 1], dim) * rng.choice([-1, 1], (count, dim), p=[0.1, 0.9])
        sizes = 2.0 ** rng.integers(-3, 4, (count, dim))
        noise = 1 + draw(st.sampled_from([0.0, 0.02])) * rng.standard_normal((count, dim))
        scale = 10.0 ** draw(st.integers(-6, 6))
        return torch.from_numpy((signs * sizes * middle * noise * scale).astype(np.float32))

    return vectors(n_queries), vectors(n), draw(st.integers(0, n - 1))


@given(worst_cases())
@settings(deadline=None, max_examples=200)
def test_nothing_that_reaches_the_threshold_is_lost(case):
    queries, rows, rank = case
    exact = (queries.double() @ rows.double().T).float()
    least = exact.sort(dim=1, descending=True).values[:, rank]
    found = near(Rounded.of(queries), Rounded.of(rows), least, len(rows), exact.numel(), memory())
    assert found is not None
    pairs = set(zip(found[0].tolist(), found[1].tolist(), strict=True))
    # Those within the rounding of float32 may be on either side of it.
    rounding = 1e-5 * torch.linalg.vector_norm(queries, dim=1)[:, None] * torch.linalg.vector_norm(rows, dim=1)
    surely = (exact > least[:, None] + rounding).nonzero().tolist()
    maybe = (exact >= least[:, None] - rounding).nonzero().tolist()
    assert set(map(tuple, surely)) <= pairs <= set(map(tuple, maybe))
    torch.testing.assert_close(found[2], exact[found[0], found[1]], rtol=0, atol=float(rounding.max()))


@given(worst_cases(), st.booleans())
@settings(deadline=None, max_examples=200)
def test_the_largest_of_the_rows_are_among_those_that_are_found(case, is_crowded):
    queries, rows, rank = case
    rows = rows.repeat(40, 1) if is_crowded else rows
    exact = (queries.double() @ rows.double().T).float()
    rounding = 1e-5 * torch.linalg.vector_norm(queries, dim=1)[:, None] * torch.linalg.vector_norm(rows, dim=1)
    # One pair fewer than there are: the k largest have to be told apart.
    found = near(
        Rounded.of(queries),
        Rounded.of(rows),
        torch.full((len(queries),), -torch.inf),
        rank + 1,
        exact.numel() - 1,
        memory(),
    )
    if found is not None:
        pairs = set(zip(found[0].tolist(), found[1].tolist(), strict=True))
        last = exact.sort(dim=1, descending=True).values[:, rank, None]
        assert set(map(tuple, (exact > last + rounding).nonzero().tolist())) <= pairs
        assert (found[0].bincount(minlength=len(queries)) >= rank + 1).all()


@pytest.mark.parametrize("value", [torch.nan, torch.inf, 3e38, 1e25])
def test_rows_of_no_length_or_too_long_are_not_searched(value):
    rows = torch.eye(4)
    rows[2] = value
    assert near(Rounded.of(torch.eye(4)), Rounded.of(rows), torch.full((4,), 0.9), 1, 99, memory()) is None


@pytest.mark.parametrize("value", [torch.nan, torch.inf, 0.0, 1e-30])
def test_queries_that_a_matrix_unit_cannot_tell_from_nothing_are_not_searched(value):
    queries = torch.eye(4)
    queries[2] *= value
    assert near(Rounded.of(queries), Rounded.of(torch.eye(4)), torch.full((4,), 0.9), 1, 99, memory()) is None


def test_fewer_rows_than_are_wanted_are_not_searched():
    vectors = Rounded.of(torch.eye(4))
    assert near(vectors, vectors, torch.full((4,), -torch.inf), 5, 99, memory()) is None


def test_more_pairs_than_may_be_looked_at_are_told():
    queries, rows, least = Rounded.of(torch.eye(3)), Rounded.of(torch.eye(3).repeat(5, 1)), torch.full((3,), 0.5)
    assert near(queries, rows, least, 1, 14, memory()) is None
    found = near(queries, rows, least, 1, 15, memory())
    assert found is not None
    torch.testing.assert_close(found[0], torch.arange(3).repeat_interleave(5))
    torch.testing.assert_close(found[2], torch.ones(15))


def test_products_of_pairs_are_those_of_the_vectors():
    rng = np.random.default_rng(0)
    one, other = (torch.from_numpy(rng.standard_normal((n, 37), np.float32)) for n in (4, 9))
    other[5] = torch.nan
    ends, at = torch.tensor([0, 2, 2, 5, 6]), torch.tensor([8, 0, 1, 5, 7, 3])
    of = torch.tensor([0, 0, 2, 2, 2, 3])
    torch.testing.assert_close(pair_products(ends, at, one, other), (one[of] * other[at]).sum(dim=1), equal_nan=True)


def test_of_no_pairs_there_are_no_products():
    nothing = torch.empty(0, dtype=torch.int64)
    assert pair_products(torch.zeros(3, dtype=torch.int64), nothing, torch.ones(2, 5), torch.ones(7, 5)).shape == (0,)


@pytest.mark.parametrize("k", [1, 10, 300])
def test_the_best_are_those_of_exact_products(on_any_processor, k):
    rng = np.random.default_rng(0)
    clusters = rng.standard_normal((20, 32))
    rows = clusters[rng.integers(0, 20, 9_000)] + 0.02 * rng.standard_normal((9_000, 32))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)
    queries = (clusters[rng.integers(0, 20, 300)] + 0.02 * rng.standard_normal((300, 32))).astype(np.float32)
    with mock.patch.object(rounded_top_k, "near", wraps=near) as looked:
        found, scores = top_k(queries, [(np.arange(9_000), rows)], k)
    exact = queries.astype(np.float64) @ rows.astype(np.float64).T
    best = -np.sort(-exact, axis=1)[:, :k]
    assert looked.called
    np.testing.assert_allclose(scores, best, rtol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(exact, found, 1), best, rtol=1e-5)
    assert all(len(set(each)) == k for each in found.tolist())


def test_rows_alike_come_in_their_order(on_any_processor):
    rng = np.random.default_rng(0)
    rows = np.tile(rng.standard_normal((1, 48)), (20_000, 1)).astype(np.float16)
    rows[10_000] *= 2
    queries = rows[:200].astype(np.float32) + rng.standard_normal((200, 48)).astype(np.float32)
    found, scores = top_k(queries, [(np.arange(20_000), rows)], 4)
    np.testing.assert_array_equal(found, [[10_000, 0, 1, 2]] * 200)
    assert (scores[:, 1] == scores[:, 3]).all()


def test_rows_that_are_not_finite_are_never_returned(on_any_processor):
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((20_000, 16)).astype(np.float32)
    expected = top_k(rows[:300], [(np.arange(10_000), rows[:10_000])], 3)[0]
    rows[10_000:] = np.nan
    rows[15_000:] = np.inf
    found = top_k(rows[:300], [(np.arange(20_000), rows)], 3)[0]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({"amx_bf16": True, "avx512_bf16": True, "cpu_name": "Intel(R) Xeon(R)"}, True),
        ({"amx_bf16": False, "avx512_bf16": True, "cpu_name": "Intel(R) Xeon(R)"}, False),
        ({"amx_bf16": False, "avx512_bf16": True, "cpu_name": "AMD EPYC"}, True),
        ({"amx_bf16": False, "avx512_bf16": False, "cpu_name": "AMD EPYC"}, False),
        ({"avx512_bf16": True}, False),
        (None, False),
    ],
)
def test_rounding_is_for_processors_that_multiply_what_is_rounded_faster(monkeypatch, told, expected):
    if told is None:  # as in older versions
        monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    else:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: told, raising=False)
    assert rounded_top_k.bfloat16_is_faster.__wrapped__() is expected
