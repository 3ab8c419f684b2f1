"""The one blocked product-and-top-k: mining, ranking and searches all go through it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["merged_top_k", "top_k", "top_k_of"]

# Rows a product: 4,096 x 1,024 scores are 16 MB, which stay in the processor's cache until they have been looked at.
_ROWS = 4_096
_QUERIES = 1_024
# Elements that are made float32 at once: they are multiplied while they are in the processor's cache.
_CONVERTED = 2**20
# Products whose largest is looked at in place of all.
_GROUP = 64
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
    parts = [_Best(q[i : i + _QUERIES], k) for i in range(0, len(q), _QUERIES)]
    for numbers, block in blocks:
        if block.shape[1] != q.shape[1]:
            raise ValueError(f"vectors of {block.shape[1]} and {q.shape[1]} elements have no inner product")
        for start in range(0, len(block), _ROWS):
            chunk = torch.as_tensor(np.ascontiguousarray(block[start : start + _ROWS]))
            rows = torch.as_tensor(numbers[start : start + _ROWS], device=device)
            for part in parts:
                part.add(chunk, rows)
    if not parts:
        return np.empty((0, k), np.int64), np.empty((0, k), np.float32)
    best = [part.best() for part in parts]
    return torch.cat([rows for rows, _ in best]).cpu().numpy(), torch.cat([scores for _, scores in best]).cpu().numpy()


class _Best:
    """The best k rows of some queries so far, and those seen since that may be better."""

    def __init__(self, queries: Tensor, k: int) -> None:
        self._queries, self._k = queries, k
        self._rows = torch.full((len(queries), k), -1, dtype=torch.int64, device=queries.device)
        self._scores = torch.full((len(queries), k), -torch.inf, device=queries.device)
        #: (query, row, score) each
        self._pending: list[tuple[Tensor, Tensor, Tensor]] = []
        self._n_pending = 0

    def add(self, vectors: Tensor, numbers: Tensor) -> None:
        """Looks at (n, D) vectors, the rows `numbers` (n,)."""
        products = self._products(vectors)
        worst = self._scores[:, -1:]
        groups = products.view(len(products), -1, _GROUP)
        # Not below the worst of the best: so are groups with a NaN, and whatever ties.
        of, group = (~(groups.amax(dim=2) < worst)).nonzero(as_tuple=True)
        if 4 * len(of) * _GROUP > products.numel():
            self._settle()
            self._merge(*_largest(products[:, : len(vectors)], numbers, self._k))
            return
        values = groups[of, group]
        i, j = (~(values < worst[of])).nonzero(as_tuple=True)
        self._pending.append((of[i], numbers[(group[i] * _GROUP + j).clamp(max=len(numbers) - 1)], values[i, j]))
        self._n_pending += len(i)
        # By then the worst of the best has risen by enough to be worth knowing.
        if self._n_pending > len(self._queries) * self._k:
            self._settle()

    def best(self) -> tuple[Tensor, Tensor]:
        """Returns rows and scores, (Q, k) each."""
        self._settle()
        return self._rows, self._scores

    def _products(self, vectors: Tensor) -> Tensor:
        """Returns (Q, n) products, filled up with -inf to whole groups."""
        n, dim = vectors.shape
        products = torch.empty((len(self._queries), -(-n // _GROUP) * _GROUP), device=self._queries.device)
        products[:, n:] = -torch.inf
        step = max(1, _CONVERTED // max(1, dim)) if products.device.type == "cpu" else n
        for start in range(0, n, step):
            part = vectors[start : start + step].to(products.device).float()
            torch.mm(self._queries, part.T, out=products[:, start : start + len(part)])
        return products

    def _settle(self) -> None:
        """Merges what is pending."""
        if not self._n_pending:
            return
        of, rows, scores = (torch.cat(each) for each in zip(*self._pending, strict=True))
        self._pending, self._n_pending = [], 0
        order = of.argsort(stable=True)
        of = of[order]
        counts = of.bincount(minlength=len(self._queries))
        at = torch.arange(len(of), device=of.device) - (counts.cumsum(0) - counts)[of]
        shape = (len(self._queries), int(counts.max()))
        all_rows = torch.full(shape, -1, dtype=torch.int64, device=of.device)
        all_scores = torch.full(shape, -torch.inf, device=of.device)
        all_rows[of, at], all_scores[of, at] = rows[order], _sound(scores[order])
        self._merge(all_rows.where(~all_scores.isneginf(), -1), all_scores)

    def _merge(self, rows: Tensor, scores: Tensor) -> None:
        """Merges rows and scores, (Q, n) each, into the best."""
        rows, scores = torch.cat([self._rows, rows], dim=1), torch.cat([self._scores, scores], dim=1)
        # Two stable sorts: by row, then by score, so that ties come in the order of the rows.
        by_row = rows.argsort(dim=1, stable=True)
        rows, scores = rows.gather(1, by_row), scores.gather(1, by_row)
        by_score = scores.argsort(dim=1, descending=True, stable=True)[:, : self._k]
        self._rows, self._scores = rows.gather(1, by_score), scores.gather(1, by_score)


def _largest(products: Tensor, numbers: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Returns the rows and scores of the largest of (Q, n) products of the rows `numbers` (n,)."""
    products = _sound(products)
    best, where = products.topk(min(k + 1, products.shape[1]), dim=1)
    # topk chooses as it likes among rows that tie for the last of the k places: there, and only there, a stable sort.
    crowded = (best[:, k - 1 : k] == best[:, k : k + 1]).any(dim=1) & ~best[:, -1].isneginf()
    best, where = best[:, :k], where[:, :k]
    if crowded.any():
        best[crowded], where[crowded] = (
            found[:, :k] for found in products[crowded].sort(dim=1, descending=True, stable=True)
        )
    return torch.where(best.isneginf(), -1, numbers[where]), best


def _sound(scores: Tensor) -> Tensor:
    """Returns scores, -inf where they are not finite."""
    return scores.nan_to_num(nan=-torch.inf, posinf=-torch.inf, neginf=-torch.inf)


def top_k_of(
    queries: NDArray[np.floating],
    candidates: NDArray[np.int64],
    vectors_of: Callable[[NDArray[np.int64]], NDArray[np.floating]],
    k: int,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Finds the rows with the largest inner products among candidates of each query.

    On the CPU: a vector is multiplied with one query, or few, which takes less time than to bring it to another device.

    Args:
        queries: (Q, D), any float type; computed in float32.
        candidates: (Q, c) row numbers, none twice for one query; -1 for none.
        vectors_of: Returns the (n, D) vectors of n row numbers, which ascend.
        k: Rows to find for each query.

    Returns:
        As `top_k`.
    """
    q, flat, n = np.ascontiguousarray(queries, np.float32), candidates.ravel(), candidates.shape[1]
    scores = np.full(len(flat), -np.inf, np.float32)
    # By row, through all queries: what lies together is read together, and what several queries want is read once.
    order = np.argsort(flat)
    order = order[np.searchsorted(flat, 0, sorter=order) :]
    for start in range(0, len(order), _CANDIDATES):
        at = order[start : start + _CANDIDATES]
        vectors = torch.as_tensor(vectors_of(flat[at])).float().numpy()
        with np.errstate(all="ignore"):
            scores[at] = np.vecdot(vectors, q.take(at // n, axis=0))
    scores[~np.isfinite(scores)] = -np.inf
    products = scores.reshape(candidates.shape)
    largest = np.argpartition(-products, min(k, n) - 1, axis=1)[:, :k]
    best = np.take_along_axis(products, largest, 1)
    rows = np.where(np.isneginf(best), -1, np.take_along_axis(candidates, largest, 1))
    found = np.full((len(q), k), -1, np.int64), np.full((len(q), k), -np.inf, np.float32)
    found[0][:, :n], found[1][:, :n] = _in_order(rows, best, k)
    return found


def merged_top_k(
    one: tuple[NDArray[np.int64], NDArray[np.float32]], other: tuple[NDArray[np.int64], NDArray[np.float32]]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Merges rows and scores, (Q, n) each, with others, (Q, k) each: the best (Q, k) of both, as `top_k` has them."""
    rows, scores = np.concatenate([one[0], other[0]], axis=1), np.concatenate([one[1], other[1]], axis=1)
    return _in_order(rows, scores, other[0].shape[1])


def _in_order(
    rows: NDArray[np.int64], scores: NDArray[np.float32], k: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Returns the best k of rows and scores, (Q, n) each, best first, equal scores by row."""
    best = np.lexsort((rows, -scores), axis=1)[:, :k]
    return np.take_along_axis(rows, best, 1), np.take_along_axis(scores, best, 1)
