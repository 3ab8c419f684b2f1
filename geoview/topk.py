"""The one blocked product-and-top-k: mining, ranking and exact search all go through it."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["top_k"]

# Rows a product: 16,384 x 1,024 scores are 64 MB, small beside any index and large enough for the matrix units.
_ROWS = 16_384
_QUERIES = 1_024


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
