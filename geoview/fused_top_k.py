"""Pairs of queries and rows whose product is worth knowing, found on a GPU without writing all products to memory.

A kernel multiplies tiles of queries and rows of float16 and keeps the pairs that may reach a threshold, the worst score
that is still among a query's best; their scores are computed again in float32. Nothing is lost: let q be a query, q'
its float16 values, x a row of D elements, u = 2^-24. Products of two float16 numbers are exact in float32; the D terms
are summed with an error of at most 4 D u |q'| |x|, for tensor cores cut off what a sum in float32 would round, each
term at the digits of the largest (Fasi et al., Numerical behavior of NVIDIA tensor cores, PeerJ Computer Science 7,
2021, e330); and the score in float32 is off by at most D u |q| |x|, as long as nothing underflows. So, by Cauchy and
Schwarz, a row whose score reaches a threshold t has an approximate product of at least

    t - (|q - q'| + 8 D u |q|) |x|,

where 8 in place of 5 leaves room for the rounding of the norms and of the bound itself. Queries are scaled by powers of
two beforehand, which changes no digit, so that float16 holds their elements well.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["near"]

# Tiles that fill a GPU's tensor cores; fewer than 16 queries do not make a tile.
_QUERIES, _FEWEST, _ROWS, _ELEMENTS = 128, 16, 128, 64
# Pairs whose scores one program computes.
_PAIRS = 64
# The bound's share of rounding, for each element.
_ROUNDING = 8 * 2.0**-24
# Beyond these, a power of two or its inverse is no float32.
_LARGEST_EXPONENT = 126


def near(queries: Tensor, rows: Tensor, least: Tensor, most: int) -> tuple[Tensor, Tensor, Tensor] | None:
    """Finds the pairs of a query and a row whose score reaches the query's threshold.

    Args:
        queries: (Q, D) float32.
        rows: (n, D) float16; Q n is below 2^31.
        least: (Q,) float32 scores to reach, -inf where any does.
        most: How many pairs there is room for.

    Returns:
        (P,) int64 queries, int64 rows and float32 scores, in no order: all pairs that reach the threshold with a score
        that is finite. None if more than `most` came near it.
    """
    rows = rows.contiguous()
    half, slack, scale = _rounded(queries)
    norms = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float32)
    of, at = (torch.empty(most, dtype=torch.int32, device=rows.device) for _ in range(2))
    count = torch.zeros(1, dtype=torch.int32, device=rows.device)
    (n_queries, dim), n_rows = queries.shape, len(rows)
    tile = min(_QUERIES, max(_FEWEST, triton.next_power_of_2(n_queries)))
    tiles = triton.cdiv(n_queries, tile)
    _find[(tiles * triton.cdiv(n_rows, _ROWS),)](
        half,
        rows,
        least * scale,
        slack,
        norms,
        of,
        at,
        count,
        n_queries,
        n_rows,
        dim,
        most,
        tiles,
        tile,
        _ROWS,
        _ELEMENTS,
        num_warps=8 if tile == _QUERIES else 4,
    )
    found = int(count)
    if found > most:
        return None
    of, at, scores = of[:found], at[:found], torch.empty(found, device=rows.device)
    if found:
        _score[(triton.cdiv(found, _PAIRS),)](queries, rows, of, at, scores, found, dim, _PAIRS, _ELEMENTS)
    reach = (scores >= least[of]) & scores.isfinite()
    return of[reach].long(), at[reach].long(), scores[reach]


def _rounded(queries: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns (Q, D) scaled queries of float16, (Q,) the bound's factor of a row's length, (Q,) the scale."""
    exponent = torch.frexp(queries.abs().amax(dim=1)).exponent.clamp(-_LARGEST_EXPONENT, _LARGEST_EXPONENT)
    # The power of two, bit by bit: no function has to be exact.
    scale = (127 - exponent << 23).view(torch.float32)
    scaled = queries * scale[:, None]
    half = scaled.half()
    slack = (scaled - half.float()).norm(dim=1) + _ROUNDING * queries.shape[1] * scaled.norm(dim=1)
    return half, slack, scale


@triton.jit
def _find(
    queries: tl.tensor,
    rows: tl.tensor,
    least: tl.tensor,
    slack: tl.tensor,
    norms: tl.tensor,
    of: tl.tensor,
    at: tl.tensor,
    count: tl.tensor,
    n_queries: tl.tensor,
    n_rows: tl.tensor,
    dim: tl.tensor,
    most: tl.tensor,
    tiles: tl.tensor,
    QUERIES: tl.constexpr,
    ROWS: tl.constexpr,
    ELEMENTS: tl.constexpr,
) -> None:
    """Writes the pairs of one tile whose product is not below the bound to `of` and `at`, and counts all there are."""
    # Tiles of queries come first: programs that run together read the same rows.
    i = tl.program_id(0) % tiles * QUERIES + tl.arange(0, QUERIES)
    j = tl.program_id(0) // tiles * ROWS + tl.arange(0, ROWS)
    products = tl.zeros((QUERIES, ROWS), tl.float32)
    for start in range(0, dim, ELEMENTS):
        element = start + tl.arange(0, ELEMENTS)
        there = element[None, :] < dim
        q = tl.load(queries + i[:, None] * dim + element[None, :], mask=there & (i[:, None] < n_queries), other=0.0)
        row = j[:, None].to(tl.int64) * dim
        x = tl.load(rows + row + element[None, :], mask=there & (j[:, None] < n_rows), other=0.0)
        products = tl.dot(q, tl.trans(x), products)
    length = tl.load(norms + j, mask=j < n_rows, other=0.0)
    bound = tl.load(least + i, mask=i < n_queries, other=float("inf"))[:, None]
    bound -= tl.load(slack + i, mask=i < n_queries, other=0.0)[:, None] * length[None, :]
    # Rows that are not finite have no finite product; tiles reach beyond the last row and the last query.
    near = (products >= bound) & (tl.abs(products) < float("inf")) & (i[:, None] < n_queries) & (j[None, :] < n_rows)
    if tl.max(tl.max(near.to(tl.int32), 1), 0) > 0:
        place = tl.atomic_add(count + tl.zeros((QUERIES, ROWS), tl.int32), 1, mask=near, sem="relaxed")
        near &= place < most
        tl.store(of + place, i[:, None] + tl.zeros((QUERIES, ROWS), tl.int32), mask=near)
        tl.store(at + place, j[None, :] + tl.zeros((QUERIES, ROWS), tl.int32), mask=near)


@triton.jit
def _score(
    queries: tl.tensor,
    rows: tl.tensor,
    of: tl.tensor,
    at: tl.tensor,
    scores: tl.tensor,
    n_pairs: tl.tensor,
    dim: tl.tensor,
    PAIRS: tl.constexpr,
    ELEMENTS: tl.constexpr,
) -> None:
    """Writes the float32 scores of pairs: the elements in one order for all, so that equal rows score the same."""
    pair = tl.program_id(0) * PAIRS + tl.arange(0, PAIRS)
    i = tl.load(of + pair, mask=pair < n_pairs, other=0).to(tl.int64)[:, None] * dim
    j = tl.load(at + pair, mask=pair < n_pairs, other=0).to(tl.int64)[:, None] * dim
    sums = tl.zeros((PAIRS, ELEMENTS), tl.float32)
    for start in range(0, dim, ELEMENTS):
        element = start + tl.arange(0, ELEMENTS)[None, :]
        q = tl.load(queries + i + element, mask=element < dim, other=0.0)
        x = tl.load(rows + j + element, mask=element < dim, other=0.0)
        sums += q * x.to(tl.float32)
    tl.store(scores + pair, tl.sum(sums, axis=1), mask=pair < n_pairs)
