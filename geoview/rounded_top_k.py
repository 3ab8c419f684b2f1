"""Pairs of queries and rows whose product is worth knowing, found on a CPU by products of rounded vectors.

Some processors multiply bfloat16 several times as fast as float32: with a matrix unit, Intel's AMX, or with
instructions of their own, AMD's since Zen 4. What comes out is only used to tell which pairs may reach a threshold, the
worst score that is still among a query's best; their scores are computed in float32. Nothing is lost: let q be a query,
x a row of D elements, q' and x' what they are rounded to, u = 2^-8. The elements of q - q' and x - x' are at most u
times those of q and x, and D terms are summed in float32 with an error of at most D 2^-24 |q'| |x'|. So, by Cauchy and
Schwarz, a row whose score reaches a threshold t has an approximate product of at least

    t - (2 u + u^2 + D 2^-22) |q| |x|,

where 2^-22 in place of 2^-24 leaves room for the rounding of scores, of norms and of the bound itself. That product is
rounded, too, and rounding keeps order.
"""

from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

__all__ = ["Rounded", "bfloat16_is_faster", "near", "pair_products"]

# Products whose largest is looked at in place of all.
_GROUP = 64
# Groups that there must be, for each of the best, for their largest to tell what to reach.
_GROUPS_A_BEST = 4
# Shorter vectors have elements that matrix units take for zero; products of longer ones may be infinite.
_LEAST, _MOST = 1e-20, 1e20
_UNIT = 2.0**-8


@functools.cache
def bfloat16_is_faster() -> bool:
    """Tells whether this processor multiplies bfloat16 faster than float32, as this PyTorch has it do.

    A matrix unit does, and so do vector instructions of AMD's processors: twice as fast on an EPYC (Zen 4), where
    searches by rounded products take half the time. With Intel's vector instructions those take 1.6 times as long as
    with float32, and five times without any (PyTorch 2.15; an Intel Xeon told to do without its matrix unit).
    """
    told: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # older versions do not tell
    is_amd = str(told.get("cpu_name")).startswith("AMD")
    return bool(told.get("amx_bf16") or (told.get("avx512_bf16") and is_amd))


@dataclass(frozen=True)
class Rounded:
    """Vectors, and what they are rounded to.

    Attributes:
        exact: (n, D) float32, contiguous.
        near: (n, D) bfloat16.
        norms: (n,) float32 lengths.
    """

    exact: Tensor
    near: Tensor
    norms: Tensor

    @classmethod
    def of(cls, vectors: Tensor) -> Self:
        """Rounds (n, D) vectors of float32."""
        return cls(vectors, vectors.bfloat16(), torch.linalg.vector_norm(vectors, dim=1))


def near(
    queries: Rounded, rows: Rounded, least: Tensor, k: int, most: int, products: Tensor
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Finds the pairs of a query and a row that may be among the query's best.

    Args:
        queries: Q of them.
        rows: n of them.
        least: (Q,) float32 scores to reach, -inf where any does.
        k: What does not reach as much as k others of these rows is not among the best.
        most: Pairs that may be looked at closely.
        products: Memory of bfloat16 to write to.

    Returns:
        (P,) int64 queries, int64 rows and float32 scores, by query: all pairs with a score that is finite, reaches the
        threshold and is one of the k largest, and some that are not. None if there are more than `most`, or vectors are
        so long, so short or so few that rounded products cannot tell.
    """
    n, dim = rows.exact.shape
    longest = rows.norms.max()
    slack = (2 * _UNIT + _UNIT**2 + dim * 2.0**-22) * queries.norms * longest
    sizes = torch.cat([slack, queries.norms, longest[None]])
    if n < k or not bool(((sizes > _LEAST) & (sizes < _MOST)).all()):
        return None
    products.resize_(len(queries.near), -(-n // _GROUP) * _GROUP)
    torch.mm(queries.near, rows.near.T, out=products[:, :n])
    # Integers are compared faster.
    bits, reach = products.view(torch.int16), least - slack
    bits[:, n:] = torch.iinfo(torch.int16).min
    largest = _largest(bits)
    if bool(reach.isneginf().any()) and 2 * k * len(bits) <= most:
        # Nothing is known yet, but k rows are as good as the k-th of the largest of some groups, which have one each.
        # Unless that is negative: bits of negative numbers rise as these fall.
        seeming = _k_th(_folded(bits, _GROUPS_A_BEST * k), k)
        reach = reach.maximum(_surely(_floats(seeming), slack).masked_fill(seeming <= 0, -torch.inf))
    if not bool((reach > 0).all()):
        bits = _ordered(bits)
        bits[:, n:] = torch.iinfo(torch.int16).min
        largest = _largest(bits)
    pairs = None if bool(reach.isneginf().any()) else _pairs(bits, largest, reach, most)
    for n_groups in (_GROUPS_A_BEST * k, bits.shape[1]):
        if pairs is None and 2 * k * len(bits) <= most:
            # Too many: rows that lie together are alike, and these may be better than all before. Or nothing is known.
            seeming = _floats(_ordered(_k_th(_folded(bits, n_groups), k)))
            reach = reach.fmax(_surely(seeming, slack))  # bits of -0.0 that were not put in order are no number
            pairs = _pairs(bits, largest, reach, most)
    if pairs is None:
        return None
    of, at = pairs
    ends = torch.searchsorted(of, torch.arange(len(bits) + 1))
    scores = pair_products(ends, at, queries.exact, rows.exact)
    kept = torch.from_numpy(np.flatnonzero(((scores >= least[of]) & scores.isfinite()).numpy()))
    return of[kept], at[kept], scores[kept]


def _ordered(bits: Tensor) -> Tensor:
    """Turns bits of bfloat16 into integers in the same order, and back: only those of negative numbers change."""
    return bits ^ (bits >> 15 & 0x7FFF)


def _floats(bits: Tensor) -> Tensor:
    """Returns the numbers that bits of bfloat16 stand for."""
    return (bits.to(torch.int32) << 16).view(torch.float32)


def _largest(bits: Tensor) -> Tensor:
    """Returns the largest of each group, (Q, n / _GROUP)."""
    return bits.view(-1, _GROUP).amax(dim=1).view(len(bits), -1)


def _folded(bits: Tensor, n: int) -> Tensor:
    """Returns the largest of each of n groups or more, (Q, groups), as long as there are so many products of each."""
    size = _GROUP
    while size > 1 and bits.shape[1] < n * size:
        size //= 2
    return bits if size == 1 else bits.view(len(bits), size, -1).amax(dim=1)


def _k_th(values: Tensor, k: int) -> Tensor:
    """Returns the k-th largest of each row."""
    at = values.shape[1] - k
    # Several times as fast as PyTorch. Memory that `numpy` was asked for could not grow any more.
    return torch.from_numpy(np.partition(np.from_dlpack(values), at, axis=1)[:, at])


def _surely(seeming: Tensor, slack: Tensor) -> Tensor:
    """Returns what products reach of rows as good as some that seem to have these: rounded, and short of the slack."""
    return seeming - _UNIT * seeming.abs() - 2 * slack


def _pairs(bits: Tensor, largest: Tensor, reach: Tensor, most: int) -> tuple[Tensor, Tensor] | None:
    """Returns queries and rows whose products, given as ordered bits, reach as much; None if they are too many."""
    # Cut off, and one less for negative numbers, whose bits cut off are more.
    reach_bits = (_ordered((reach.view(torch.int32) >> 16).to(torch.int16)) - 1).numpy()[:, None]
    n_groups = largest.shape[1]
    chosen = np.flatnonzero(largest.numpy() >= reach_bits)
    values = np.from_dlpack(bits).reshape(-1, _GROUP).take(chosen, axis=0)
    pair = np.flatnonzero(values >= reach_bits.take(chosen // n_groups, axis=0))
    if len(pair) > most:
        return None
    which, within = np.divmod(pair, _GROUP)
    query, group = np.divmod(chosen[which], n_groups)
    return torch.from_numpy(query), torch.from_numpy(group * _GROUP + within)


def pair_products(ends: Tensor, other: Tensor, one_vectors: Tensor, other_vectors: Tensor) -> Tensor:
    """Returns the products of some pairs of vectors, in less time than it takes to bring each pair together.

    Args:
        ends: (n + 1,) int64: pairs ends[i] to ends[i + 1] are of the i-th vector.
        other: (P,) int64 numbers of the others.
        one_vectors: (n, D) float32, contiguous.
        other_vectors: (m, D) float32, contiguous.

    Returns:
        (P,) float32; whichever other pairs there are, and wherever they stand, the product of two vectors is the same.
    """
    shape = len(one_vectors), len(other_vectors)
    pairs = torch.sparse_csr_tensor(ends, other, torch.zeros(len(other)), shape, check_invariants=False)
    products: Tensor = torch.sparse.sampled_addmm(pairs, one_vectors, other_vectors.T, beta=0.0).values()
    return products


with warnings.catch_warnings():
    # That these tensors are in beta is told once a process: here, where no other thread minds.
    warnings.simplefilter("ignore")
    torch.sparse_csr_tensor(torch.zeros(1, dtype=torch.int64), torch.empty(0, dtype=torch.int64), [], (0, 0))
