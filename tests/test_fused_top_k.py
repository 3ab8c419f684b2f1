"""Triton's kernels, on a GPU where there is one, else in its interpreter, which conftest.py asks for."""

import os
import subprocess
import sys
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geoview import topk
from geoview.topk import top_k

pytest.importorskip("triton", reason="Triton comes with PyTorch's builds for CUDA")
from geoview.fused_top_k import near

# The interpreter computes with NumPy, which warns of NaN and infinity.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def fused_top_k(queries, blocks, k, **sizes):
    with mock.patch.multiple(topk, _look_here=topk._look_elsewhere, _near=lambda _: near, **sizes):
        return top_k(queries, blocks, k, device=DEVICE)


def pairs(queries, rows, least, most=1_000_000):
    found = near(*(torch.as_tensor(each, device=DEVICE) for each in (queries, rows, least)), most)
    return None if found is None else tuple(each.cpu().numpy() for each in found)


def everything(queries, rows):
    """The kernel's own scores of all pairs, (Q, n)."""
    of, at, scores = pairs(queries, rows, np.full(len(queries), -np.inf, np.float32))
    found = np.full((len(queries), len(rows)), np.nan, np.float32)
    found[of, at] = scores
    return found


@st.composite
def searches(draw):
    # Small integers: their products are exact in every type, and many of them tie.
    n_queries, n, dim = draw(st.integers(1, 40)), draw(st.integers(0, 300)), draw(st.integers(1, 70))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    references = rng.integers(-2, 3, (n, dim)).astype(np.float16)
    references[rng.random(n) < draw(st.sampled_from([0.0, 0.3]))] = draw(st.sampled_from([np.nan, np.inf, -np.inf]))
    queries = rng.integers(-2, 3, (n_queries, dim)).astype(np.float32)
    cuts = sorted(draw(st.lists(st.integers(0, n), max_size=3)))
    blocks = [(np.arange(a, b), references[a:b]) for a, b in zip([0, *cuts], [*cuts, n], strict=True)]
    return queries, draw(st.permutations(blocks)), draw(st.sampled_from([1, 3, 20, 400]))


@given(searches(), st.sampled_from([1, 900, 2**20]))
@settings(deadline=None, max_examples=40)
def test_equals_the_plain_way_whatever_fits(search, most):
    queries, blocks, k = search
    rows, scores = fused_top_k(queries, blocks, k, _PAIRS=most)
    expected_rows, expected_scores = top_k(queries, blocks, k)
    np.testing.assert_array_equal(rows, expected_rows)
    np.testing.assert_array_equal(scores, expected_scores)


@pytest.mark.parametrize(("n_queries", "n", "dim"), [(1, 700, 1_024), (130, 300, 100), (20, 300, 513), (3, 500, 1)])
def test_all_pairs_that_reach_the_threshold_are_found_and_no_others(n_queries, n, dim):
    rng = np.random.default_rng(0)
    queries, rows = rng.normal(size=(n_queries, dim)).astype(np.float32), rng.normal(size=(n, dim)).astype(np.float16)
    scores = everything(queries, rows)
    np.testing.assert_allclose(scores, queries @ rows.astype(np.float32).T, rtol=1e-5, atol=1e-4)
    least = np.sort(scores, axis=1)[:, -10]
    of, at, found = pairs(queries, rows, least)
    np.testing.assert_array_equal(sorted(zip(of, at, strict=True)), np.argwhere(scores >= least[:, None]))
    np.testing.assert_array_equal(found, scores[of, at])


@pytest.mark.parametrize("length", [1e-30, 1.0, 3e30])
def test_what_rounding_a_query_takes_from_a_product_is_allowed_for(length):
    dim = 512
    # Halfway to the next number of float16, where it rounds to the even one below: as wrong as it gets.
    query = np.full((1, dim), length * (1 + 2**-11), np.float32)
    rows = np.stack([np.ones(dim), np.full(dim, -1)]).astype(np.float16)
    score = everything(query, rows)[0, 0]
    if length == 1:
        assert query.astype(np.float16).astype(np.float32) @ rows[0].astype(np.float32) < score
    for sign in (1, -1):
        of, at, found = pairs(sign * query, sign * rows, np.array([score]))
        assert (of.tolist(), at.tolist(), found.tolist()) == ([0], [0], [score])


def test_rows_that_tie_with_the_threshold_are_found():
    rng = np.random.default_rng(0)
    queries, rows = rng.normal(size=(3, 33)).astype(np.float32), rng.normal(size=(5, 33)).astype(np.float16)
    rows = np.tile(rows, (60, 1))
    scores = everything(queries, rows)
    assert (scores.reshape(3, 60, 5) == scores[:, None, :5]).all()
    best, _ = fused_top_k(queries, [(np.arange(300), rows)], 4)
    first = scores[:, :5].argmax(axis=1)
    np.testing.assert_array_equal(best, first[:, None] + 5 * np.arange(4))


def test_more_pairs_than_there_is_room_for_are_none():
    queries, rows = np.ones((2, 4), np.float32), np.ones((10, 4), np.float16)
    assert pairs(queries, rows, np.zeros(2, np.float32), most=19) is None
    assert len(pairs(queries, rows, np.zeros(2, np.float32), most=20)[0]) == 20


def test_what_is_not_finite_is_no_pair():
    queries = np.array([[1, 1], [np.nan, 1], [0, 0], [np.inf, 0], [3e38, 3e38]], np.float32)
    rows = np.array([[1, 1], [np.nan, 0], [np.inf, 1], [-np.inf, 1], [-1, 0.5]], np.float16)
    of, at, scores = pairs(queries, rows, np.full(5, -np.inf, np.float32))
    found = dict(zip(zip(of.tolist(), at.tolist(), strict=True), scores.tolist(), strict=True))
    assert found == {(0, 0): 2, (0, 4): -0.5, (2, 0): 0, (2, 4): 0, (4, 4): pytest.approx(-1.5e38)}


def test_other_types_are_multiplied_plainly():
    rng = np.random.default_rng(0)
    queries, rows = rng.normal(size=(5, 8)).astype(np.float32), rng.normal(size=(90, 8)).astype(np.float32)
    blocks = [(np.arange(90), rows), (np.arange(90, 180), rows.astype(np.float16))]
    np.testing.assert_array_equal(fused_top_k(queries, blocks, 30)[0], top_k(queries, blocks, 30)[0])


COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from geoview.fused_top_k import _find, _score

def compile(kernel, types, sizes):
    names = kernel.arg_names
    signature = dict(zip(names, types.split() + ["constexpr"] * len(sizes)))
    constants = dict(zip(((i,) for i in range(len(names) - len(sizes), len(names))), sizes))
    assert triton.compile(ASTSource(kernel, signature, constants), target=GPUTarget("cuda", 90, 32)).asm["cubin"]

compile(_find, "*fp16 *fp16 *fp32 *fp32 *fp32 *i32 *i32 *i32 i32 i32 i32 i32 i32", [128, 128, 64])
compile(_score, "*fp32 *fp16 *i32 *i32 *fp32 i32 i32", [64, 64])
"""


def test_the_kernels_can_be_compiled(tmp_path):
    # The interpreter allows more than the compiler, which needs no GPU.
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", COMPILE], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
