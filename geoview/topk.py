"""The one blocked product-and-top-k: mining, ranking and searches all go through it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["merged_top_k", "top_k", "top_k_of"]

# Rows a product: 16,384 x 1,024 scores are 64 MB, small beside any index and large enough for the matrix units.
_ROWS = 16_384
_QUERIES = 1_024
# Candidates that are scored at once: their vectors stay in the processor's cache.
_CANDIDATES = 2_048


def top_k(
    queries: NDArray[np.floating],
    blocks: Iterable[tuple[NDArray[np.int64], NDArray[np.floating]]],
    k: int,
    *,
    device: str | torch.device = "cpu",
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Finds the rows with the largest inner products, in memory that does not grow with their number.

    Args:
        queries: (Q, D), any float type; computed in float32.
        blocks: (n,) ascending row numbers and (n, D) vectors of any float type; blocks come in any order, each as large
            as one likes.
        k: Rows to find for each query.
        device: Where to compute.

    Returns:
        rows: (Q, k) int64 row numbers, best first, equal scores by row number; -1 where there are fewer than k rows.
        scores: (Q, k) float32 inner products; -inf where there is no row. A score that is not finite counts as -inf
            and its row is never returned: what overflowed must not win.

    Raises:
        ValueError: k is below 1, or the lengths of the vectors differ.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, is {k}")
    q = torch.as_tensor(np.ascontiguousarray(queries, dtype=np.float32), device=device)
    parts = [q[i : i + _QUERIES] for i in range(0, len(q), _QUERIES)]
    rows = [torch.full((len(p), k), -1, dtype=torch.int64, device=device) for p in parts]
    scores = [torch.full((len(p), k), -torch.inf, device=device) for p in parts]
    for numbers, block in blocks:
        if block.shape[1] != q.shape[1]:
            raise ValueError(f"vectors of {block.shape[1]} and {q.shape[1]} elements have no inner product")
        for start in range(0, len(block), _ROWS):
            chunk = torch.as_tensor(np.ascontiguousarray(block[start : start + _ROWS]), device=device).float()
            chunk_rows = torch.as_tensor(numbers[start : start + _ROWS], device=device)
            for i, part in enumerate(parts):
                rows[i], scores[i] = _merge(part @ chunk.T, chunk_rows, rows[i], scores[i])
    if not parts:
        return np.empty((0, k), np.int64), np.empty((0, k), np.float32)
    return torch.cat(rows).cpu().numpy(), torch.cat(scores).cpu().numpy()


def top_k_of(
    queries: NDArray[np.floating],
    candidates: NDArray[np.int64],
    vectors_of: Callable[[NDArray[np.int64]], NDArray[np.floating]],
    k: int,
    *,
    device: str | torch.device = "cpu",
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Finds the rows with the largest inner products among candidates of each query.

    Args:
        queries: (Q, D), any float type; computed in float32.
        candidates: (Q, c) row numbers, none twice for one query; -1 for none.
        vectors_of: Returns the (n, D) vectors of n row numbers.
        k: Rows to find for each query.
        device: Where to compute.

    Returns:
        As `top_k`.
    """
    q = torch.as_tensor(np.ascontiguousarray(queries, dtype=np.float32), device=device)
    scores = np.full(candidates.shape, -np.inf, np.float32)
    step = max(1, _CANDIDATES // max(1, candidates.shape[1]))
    for start in range(0, len(q), step):
        mine = candidates[start : start + step]
        there = mine >= 0
        vectors = torch.as_tensor(vectors_of(mine[there]), device=device).float()
        if there.all():
            # Row times matrix: on a CPU ten times as fast as the same as matrix times column.
            products = torch.bmm(q[start : start + step, None], vectors.view(*mine.shape, -1).mT)
            scores[start : start + step] = products[:, 0].cpu().numpy()
        else:
            of = torch.as_tensor(np.nonzero(there)[0], device=device)
            scores[start : start + step][there] = (vectors * q[start : start + step][of]).sum(dim=1).cpu().numpy()
    scores[~np.isfinite(scores)] = -np.inf
    at = torch.as_tensor(scores).topk(min(k, candidates.shape[1]), dim=1).indices.numpy()
    best = np.take_along_axis(scores, at, 1)
    rows = np.where(np.isneginf(best), -1, np.take_along_axis(candidates, at, 1))
    nothing = np.full((len(q), k), -1, np.int64), np.full((len(q), k), -np.inf, np.float32)
    return merged_top_k((rows, best), nothing)


def merged_top_k(
    one: tuple[NDArray[np.int64], NDArray[np.float32]], other: tuple[NDArray[np.int64], NDArray[np.float32]]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Merges rows and scores, (Q, n) each, with others, (Q, k) each: the best (Q, k) of both, as `top_k` has them."""
    k = other[0].shape[1]
    rows, scores = np.concatenate([one[0], other[0]], axis=1), np.concatenate([one[1], other[1]], axis=1)
    best = np.lexsort((rows, -scores), axis=1)[:, :k]
    return np.take_along_axis(rows, best, 1), np.take_along_axis(scores, best, 1)


def _merge(products: Tensor, numbers: Tensor, rows: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """Merges (Q, n) products of the rows `numbers` (n,) into the best (Q, k) so far."""
    k = rows.shape[1]
    products = products.nan_to_num(nan=-torch.inf, posinf=-torch.inf, neginf=-torch.inf)
    best, where = products.topk(min(k + 1, products.shape[1]), dim=1)
    # topk chooses as it likes among rows that tie for the last of the k places: there, and only there, a stable sort.
    crowded = (best[:, k - 1 : k] == best[:, k : k + 1]).any(dim=1) & ~best[:, -1].isneginf()
    best, where = best[:, :k], where[:, :k]
    if crowded.any():
        best[crowded], where[crowded] = (
            found[:, :k] for found in products[crowded].sort(dim=1, descending=True, stable=True)
        )
    where = torch.where(best.isneginf(), -1, numbers[where])
    all_rows, all_scores = torch.cat([rows, where], dim=1), torch.cat([scores, best], dim=1)
    # Two stable sorts: by row, then by score, so that ties come in the order of the rows.
    by_row = all_rows.argsort(dim=1, stable=True)
    all_rows, all_scores = all_rows.gather(1, by_row), all_scores.gather(1, by_row)
    by_score = all_scores.argsort(dim=1, descending=True, stable=True)[:, :k]
    return all_rows.gather(1, by_score), all_scores.gather(1, by_score)
