"""One query against all rows as fast as memory brings them: FAISS decodes half precision and multiplies in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

__all__ = ["scan"]

# Offsets stand for the rows: FAISS reads no numbers then.
_NO_IDS = np.empty(0, np.int64)


def scan(
    query: NDArray[np.floating], blocks: Sequence[NDArray[np.float16]], k: int, *, num_workers: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]] | None:
    """Finds the rows with the largest inner products.

    Args:
        query: (D,) vector.
        blocks: (n, D) rows each, contiguous, one block at least; numbered through all blocks.
        k: Rows to find.
        num_workers: Threads, each of which takes a block at a time.

    Returns:
        (k,) rows and scores, best first, equal scores by row, -1 and -inf where there are fewer; None where a score is
        not finite, or so many rows tie for the last place that some may be unseen: then every product has to be looked
        at.
    """
    query = np.ascontiguousarray(query, np.float32)
    firsts = np.cumsum([0, *map(len, blocks)])

    def best(block: NDArray[np.float16]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        # One more than wanted: its score tells whether what was left out may tie.
        rows, scores = np.full(k + 1, -1, np.int64), np.full(k + 1, -np.inf, np.float32)
        scanner = _scanner(len(query))
        scanner.set_query(faiss.swig_ptr(query))
        scanner.set_list(0, 0.0)
        pointers = (faiss.swig_ptr(array) for array in (block.view(np.uint8), _NO_IDS, scores, rows))
        scanner.scan_codes(len(block), *pointers, k + 1)
        return rows, scores

    with ThreadPoolExecutor(num_workers) as pool:
        found = list(pool.map(best, blocks))
    numbered = zip(found, firsts[:-1], strict=True)
    rows = np.concatenate([np.where(each >= 0, each + first, -1) for (each, _), first in numbered])
    scores = np.concatenate([each for _, each in found])
    if not np.isfinite(scores[rows >= 0]).all():
        return None
    order = np.lexsort((rows, -scores))[:k]
    last = scores[order[-1]]
    if any((each == last).any() and (which >= 0).all() and each.min() == last for which, each in found):
        return None
    return rows[order], scores[order]


def _scanner(dim: int) -> Any:
    index = faiss.IndexIVFScalarQuantizer(
        faiss.IndexFlatIP(dim), dim, 1, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT, False
    )
    index.is_trained = True  # half precision has nothing to learn
    scanner = index.get_InvertedListScanner(True, None, None)
    scanner.index = index  # which it points into
    return scanner
