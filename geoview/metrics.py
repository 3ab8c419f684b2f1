"""Ranks, recalls and their intervals. Ties and values that are not finite count against the model."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = [
    "average_precision",
    "bootstrap_interval",
    "brier_score",
    "calibration_error",
    "ranks",
    "ranks_of_all",
    "recall_at",
    "recall_at_share",
    "recall_within",
    "wilson_interval",
]

# A block of 512 x 2,048 scores is 4 MB: it stays in the cache for the comparisons, and fills the matrix units.
_QUERIES = 512
_REFERENCES = 2_048
# Exact products computed at once: 2 MB each side for 512 elements.
_PAIRS = 512
# One exact product costs about as much as 32 of a float64 matrix product.
_DENSE = 1 / 32
# Bootstrap draws held at once: 32 MB of indices.
_DRAWS = 1 << 22

# Vectors no longer than this have products within float32, whatever their direction (Cauchy-Schwarz).
_LONGEST = math.sqrt(torch.finfo(torch.float32).max)
# How much shorter factors are made before they are multiplied, by `torch.get_float32_matmul_precision()`: not at all,
# to the 10 bits of TF32, to the 7 of bfloat16.
_FACTOR_ERROR = {"highest": 0.0, "high": 2**-10, "medium": 2**-7}


def ranks(
    queries: NDArray[np.floating],
    references: NDArray[np.floating],
    positive: NDArray[np.int64],
    *,
    ignored: NDArray[np.int64] | None = None,
    device: str | torch.device = "cpu",
) -> NDArray[np.int64]:
    """Ranks the true reference of each query by inner product, in blocks of queries and references.

    The inner products are those of float64: a rank depends neither on blocks and threads nor on the device. Float32
    products, with a bound of their rounding error, decide wherever they can; the few references that come within the
    bound of the true one are computed again. Two references tie when their products differ by less than the rounding
    error of float64, so a vector always ties with its copy.

    Args:
        queries: (Q, D), any float type; computed from its float32 values.
        references: (R, D), the same; read in blocks, so it may be mapped from disk.
        positive: (Q,) row of each query's true reference.
        ignored: (Q, S) rows of references that do not compete for a query, -1 for none: the semi-positives of VIGOR,
            whose hit rate is `recall_at(ranks(..., ignored=semi_positive), 1)`.
        device: Where to compute.

    Returns:
        (Q,) ranks from 1: one more than the number of competitors that score at least as high. A query or a true
        reference that is not finite ranks last; a reference that is not finite beats every true one. So a constant or
        an overflowing encoder scores what chance scores, or worse. Longer than 1.8e19 counts as not finite.

    Raises:
        ValueError: The shapes do not go together, or a row is none of the references'.
    """
    true = np.asarray(positive, np.int64)[:, None]
    if len(true) and true.min() < 0:
        query = int(true.argmin())
        raise ValueError(f"positive of query {query} is {true[query, 0]}: each query needs a true reference")
    return 1 + _ahead(queries, references, true, ignored, device)[:, 0]


def ranks_of_all(
    queries: NDArray[np.floating],
    references: NDArray[np.floating],
    query_place: NDArray[np.int64],
    reference_place: NDArray[np.int64],
    *,
    device: str | torch.device = "cpu",
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ranks all true references of each query, those of the same place; products and ties are those of `ranks`.

    Args:
        queries: (Q, D).
        references: (R, D). Distractors belong in it, with places that no query has.
        query_place: (Q,) number of each query's place.
        reference_place: (R,) number of each reference's place.
        device: Where to compute.

    Returns:
        rank: (P,) ranks from 1 in the whole gallery, query by query, ascending. The i-th true reference of a query, i
            from 0, has rank 1 + i + the number of false references that score at least as high; one that is not
            finite, or any of a query that is not, comes after all false ones.
        offsets: (Q + 1,) where the ranks of each query begin and end, so the first ranks are `rank[offsets[:-1]]`.

    Raises:
        ValueError: The shapes do not go together, or a query has no true reference.
    """
    query_place, reference_place = np.asarray(query_place), np.asarray(reference_place)
    if query_place.shape != (len(queries),) or reference_place.shape != (len(references),):
        raise ValueError(
            f"places of shapes {query_place.shape} and {reference_place.shape}"
            f" for {len(queries)} queries and {len(references)} references"
        )
    order = np.argsort(reference_place, kind="stable")
    first = np.searchsorted(reference_place, query_place, side="left", sorter=order)
    n_true = np.searchsorted(reference_place, query_place, side="right", sorter=order) - first
    if len(n_true) and n_true.min() == 0:
        query = int(n_true.argmin())
        raise ValueError(f"place {query_place[query]} of query {query} has no reference: leave the query out")
    nth = np.arange(n_true.max(initial=0))
    real = nth < n_true[:, None]
    true = np.full(real.shape, -1, np.int64)
    true[real] = order[(first[:, None] + nth)[real]]
    ahead = np.where(real, _ahead(queries, references, true, None, device), len(references))
    return (1 + nth + np.sort(ahead, axis=1))[real], np.concatenate([[0], np.cumsum(n_true)])


def recall_at(rank: NDArray[np.int64], k: int) -> float:
    """Returns the share of queries whose true reference ranks at most k; NaN without queries."""
    return float(np.mean(rank <= k)) if len(rank) else math.nan


def recall_at_share(rank: NDArray[np.int64], share: float, n_references: int) -> float:
    """Returns the recall at a share of the gallery, R@1 % for 0.01: at k = max(1, floor(share * n_references))."""
    # 0.29 * 100 is 28.999999999999996.
    return recall_at(rank, max(1, math.floor(round(share * n_references, 6))))


def recall_within(distance_m: NDArray[np.float64], k: int, radius_m: float) -> float:
    """Returns the share of queries with one of the first k answers within a radius of the truth.

    Args:
        distance_m: (Q, n) distance of each answer, best first; NaN or inf where there is no answer.
        k: Answers that count.
        radius_m: Largest distance that counts.

    Returns:
        Share in [0, 1]; NaN without queries.
    """
    if not len(distance_m):
        return math.nan
    return float(np.mean((distance_m[:, :k] <= radius_m).any(axis=1)))


def average_precision(rank: NDArray[np.int64], offsets: NDArray[np.int64]) -> NDArray[np.float64]:
    """Returns each query's average precision by the trapezoid rule, as University-1652 is scored.

    The i-th true reference at rank r, both from 0, adds (old + new) / 2 / n_true, with new = (i + 1) / (r + 1) and
    old = i / r, or 1 for r = 0 (Zheng et al., University-1652, ACM MM 2020, `compute_mAP` of the code). A single true
    reference at rank r > 0 thus has 1 / (2r + 2).

    Args:
        rank: (P,) ranks from 1, and
        offsets: (Q + 1,), both as `ranks_of_all` returns them: at least one rank a query.

    Returns:
        (Q,) in (0, 1].
    """
    n_true = np.diff(offsets)
    query = np.repeat(np.arange(len(n_true)), n_true)
    before, hit = rank - 1, np.arange(len(rank)) - offsets[query]
    old = np.divide(hit, before, out=np.ones(len(rank)), where=before > 0)
    new = (hit + 1) / rank
    return np.bincount(query, (old + new) / 2, minlength=len(n_true)) / n_true


def wilson_interval(share: float, n: int, z: float = 1.96) -> tuple[float, float]:
    """Returns the Wilson score interval of a share of n trials (Wilson, JASA 22, 1927); 95 % for z = 1.96."""
    if n == 0:
        return 0.0, 1.0
    middle = share + z * z / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, (middle - half) / (1 + z * z / n)), min(1.0, (middle + half) / (1 + z * z / n))


def bootstrap_interval(
    values: NDArray[np.floating | np.bool_],
    seed: int,
    n: int = 1_000,
    level: float = 0.95,
    groups: NDArray[np.generic] | None = None,
) -> tuple[float, float]:
    """Returns the percentile bootstrap interval of a mean (Efron & Tibshirani, 1993, chapter 13).

    Args:
        values: (Q,) one a query, such as its average precision.
        seed: Of the draws.
        n: Draws.
        level: Coverage aimed at.
        groups: (Q,) what each query belongs to, such as a city block; whole groups are drawn, since queries near each
            other are not independent. Every query on its own without it.

    Returns:
        Lower and upper end; NaN with fewer than two groups, which tell nothing of how groups vary.

    Raises:
        ValueError: There are not as many groups as values.
    """
    values = np.asarray(values, np.float64)
    _, group = np.unique(np.arange(len(values)) if groups is None else groups, return_inverse=True)
    if group.shape != values.shape:
        raise ValueError(f"groups of shape {group.shape} for values of shape {values.shape}")
    size, total = np.bincount(group), np.bincount(group, values)
    if len(size) < 2:
        return math.nan, math.nan
    rng = np.random.default_rng(seed)
    means = []
    step = max(1, _DRAWS // len(size))
    for start in range(0, n, step):
        drawn = rng.integers(0, len(size), (min(step, n - start), len(size)))
        means.append(total[drawn].sum(axis=1) / size[drawn].sum(axis=1))
    low, high = np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def brier_score(p: NDArray[np.floating], right: NDArray[np.bool_]) -> float:
    """Returns the mean square of probabilities less what came true (Brier, 1950); NaN counts as a sure mistake."""
    off = np.where(np.isfinite(p), np.asarray(p, np.float64) - right, 1.0)
    return float((off**2).mean())


def calibration_error(p: NDArray[np.floating], right: NDArray[np.bool_], bins: int = 10) -> float:
    """Returns the expected calibration error: how far probabilities are from shares that came true, on average.

    In bins of as many answers each (Nguyen & O'Connor, EMNLP 2015), as most answers may have much the same probability.

    Args:
        p: (N,) probabilities, finite.
        right: (N,) what came true.
        bins: How many; as many as there are answers at most.
    """
    order = np.argsort(p, kind="stable")
    parts = np.array_split(order, min(bins, len(order)))
    return float(sum(len(part) * abs(p[part].mean() - right[part].mean()) for part in parts) / len(order))


def _ahead(
    queries: NDArray[np.floating],
    references: NDArray[np.floating],
    true: NDArray[np.int64],
    ignored: NDArray[np.int64] | None,
    device: str | torch.device,
) -> NDArray[np.int64]:
    """Counts the competitors that score at least as high as each true reference.

    Args:
        queries: (Q, D).
        references: (R, D).
        true: (Q, T) rows, -1 for none. They do not compete with each other.
        ignored: (Q, S) rows that do not compete either, -1 for none.
        device: Where to compute.

    Returns:
        (Q, T); no meaning where there is no true reference.
    """
    if queries.ndim != 2 or references.ndim != 2 or queries.shape[1] != references.shape[1]:
        raise ValueError(f"queries of shape {queries.shape} and references of {references.shape} have no products")
    left_out = true if ignored is None else np.concatenate([true, np.asarray(ignored, np.int64)], axis=1)
    if len(left_out) != len(queries):
        raise ValueError(f"true references of {len(left_out)} queries for {len(queries)} queries")
    if left_out.size and not -1 <= left_out.min() <= left_out.max() < len(references):
        raise ValueError(f"rows {left_out.min()} to {left_out.max()} for references 0 to {len(references) - 1}")

    q, q_length, q_finite = _vectors(queries, device)
    true_score = _true_scores(q, q_finite, references, true)
    left_out_rows = torch.as_tensor(left_out, device=device)
    ahead = torch.zeros(true.shape, dtype=torch.int64, device=device)
    finite = np.ones(len(references), np.bool_)
    for start in range(0, len(references), _REFERENCES):
        r, r_length, r_finite = _vectors(references[start : start + _REFERENCES], device)
        finite[start : start + len(r)] = r_finite.cpu().numpy()
        for first in range(0, len(q), _QUERIES):
            block = slice(first, first + _QUERIES)
            column = left_out_rows[block] - start
            query, nth = ((column >= 0) & (column < len(r))).nonzero(as_tuple=True)
            hidden = (~r_finite).repeat(len(column), 1)
            hidden[query, column[query, nth]] = True
            ahead[block] += _ahead_in_block(q[block], q_length[block], r, r_length, true_score[block], hidden)

    # What is not finite was hidden from the products: such references beat all finite ones, and are beaten by all.
    rows = np.sort(left_out, axis=1)
    distinct = np.diff(rows, axis=1, prepend=-1) > 0
    beating = np.sum(~finite) - np.sum(distinct & ~finite[rows], axis=1, keepdims=True)
    competitors = len(references) - np.sum(distinct, axis=1, keepdims=True)
    hopeless = true_score.isposinf().cpu().numpy()
    found: NDArray[np.int64] = np.where(hopeless, competitors, ahead.cpu().numpy() + beating)
    return found


def _vectors(rows: NDArray[np.floating], device: str | torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Returns (n, D) float32 vectors, their (n,) lengths and which are finite; the others become 0."""
    # A copy: what is mapped from disk may be read-only, and what was given stays as it was.
    vectors = torch.as_tensor(np.array(rows, np.float32, order="C"), device=device)
    parts = torch.split(vectors, _REFERENCES)
    length = torch.cat([torch.linalg.vector_norm(part, dim=1, dtype=torch.float64) for part in parts])
    finite = length < _LONGEST
    vectors[~finite], length[~finite] = 0, 0
    return vectors, length, finite


def _true_scores(q: Tensor, q_finite: Tensor, references: NDArray[np.floating], true: NDArray[np.int64]) -> Tensor:
    """Returns (Q, T) exact products; infinite, which nothing reaches, where a vector is not finite or missing."""
    score = torch.full(true.shape, torch.inf, dtype=torch.float64, device=q.device)
    query, nth = np.nonzero(true >= 0)
    for start in range(0, len(query), _REFERENCES):
        i, j = query[start : start + _REFERENCES], nth[start : start + _REFERENCES]
        r, _, r_finite = _vectors(references[true[i, j]], q.device)
        row, column = torch.as_tensor(i, device=q.device), torch.as_tensor(j, device=q.device)
        products = _products(q, row, r, torch.arange(len(r), device=q.device))
        score[row, column] = torch.where(r_finite & q_finite[row], products, torch.inf)
    return score


def _ahead_in_block(
    q: Tensor, q_length: Tensor, r: Tensor, r_length: Tensor, true_score: Tensor, hidden: Tensor
) -> Tensor:
    """Counts, for (n, T) exact scores of true references, how many of a block reach each; `hidden` (n, m) never do."""
    # The error of a float32 product of D terms, summed in whatever order, is at most Du / (1 - Du) of the product of
    # the lengths (Higham, Accuracy and Stability of Numerical Algorithms, 2002, 3.1), apart from underflow. Rounding
    # the thresholds is as much as two terms more.
    dim, info = q.shape[1], torch.finfo(torch.float32)
    rounding, factor = (dim + 2) * info.eps / 2, _FACTOR_ERROR[torch.get_float32_matmul_precision()]
    relative = rounding / (1 - rounding) + 2 * factor + factor**2
    doubt = (relative * r_length.max() * q_length + dim * info.tiny)[:, None]
    low, high = (true_score - doubt).float(), (true_score + doubt).float()

    scores = (q @ r.T).masked_fill_(hidden, -torch.inf)
    ahead = torch.empty(true_score.shape, dtype=torch.int64, device=q.device)
    near = torch.zeros_like(hidden)
    for nth in range(true_score.shape[1]):
        reaching = scores >= low[:, nth, None]
        ahead[:, nth] = reaching.sum(dim=1)
        near |= reaching.logical_and_(scores <= high[:, nth, None])
    i, j = near.nonzero(as_tuple=True)

    # Twice the error bound of float64: two sums of the same products, in different order, never differ by more.
    tie = dim * torch.finfo(torch.float64).eps
    if len(i) > _DENSE * near.numel():
        exact = (q.double() @ r.double().T).addr_(q_length, r_length, alpha=tie).masked_fill_(hidden, -torch.inf)
        return torch.stack([(exact >= score[:, None]).sum(dim=1) for score in true_score.T], dim=1)
    exact = _products(q, i, r, j) + tie * q_length[i] * r_length[j]
    change = (exact[:, None] >= true_score[i]).long() - (scores[i, j, None] >= low[i]).long()
    return ahead.index_add_(0, i, change)


def _products(q: Tensor, i: Tensor, r: Tensor, j: Tensor) -> Tensor:
    """Returns the (n,) float64 products of rows i of q and rows j of r."""
    parts = zip(torch.split(i, _PAIRS), torch.split(j, _PAIRS), strict=True)
    return torch.cat([(q[a].double() * r[b]).sum(dim=1) for a, b in parts])
