"""One query against all rows as fast as memory brings them: FAISS decodes half precision and multiplies in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

__all__ = ["scan"]

# Rows a turn: enough that Python hands out few, and few enough that threads end together.
_PART_ROWS = 2**15
# FAISS returns the number of a part and the offset in it, 32 bits each, and reads no numbers of rows.
_NO_IDS = np.empty(0, np.int64)


def scan(
    query: NDArray[np.floating], blocks: Sequence[NDArray[np.float16]], k: int, *, num_workers: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]] | None:
    """Finds the rows with the largest inner products.

    Args:
        query: (D,) vector.
        blocks: (n, D) rows each, contiguous, one block at least; numbered through all blocks.
        k: Rows to find.
        num_workers: Threads, which take turns.

    Returns:
        (k,) rows and scores, best first, equal scores by row, -1 and -inf where there are fewer; None where a score is
        not finite, or so many rows tie for the last place that some may be unseen: then every product has to be looked
        at.
    """
    query = np.ascontiguousarray(query, np.float32)
    firsts = np.cumsum([0, *map(len, blocks)])
    parts = [
        (first + at, block[at : at + _PART_ROWS])
        for first, block in zip(firsts[:-1], blocks, strict=True)
        for at in range(0, len(block), _PART_ROWS)
    ]
    first_rows = np.array([first for first, _ in parts], np.int64)
    # Threads take turns at one iterator: whoever is done takes the next part, into what it has found so far.
    turns = enumerate(parts)

    def best(_: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        # One more than wanted: its score tells whether what was left out may tie.
        pairs, scores = np.full(k + 1, -1, np.int64), np.full(k + 1, -np.inf, np.float32)
        scanner = _scanner(len(query))
        scanner.set_query(faiss.swig_ptr(query))
        for number, (_, part) in turns:
            scanner.set_list(number, 0.0)
            pointers = (faiss.swig_ptr(array) for array in (part.view(np.uint8), _NO_IDS, scores, pairs))
            scanner.scan_codes(len(part), *pointers, k + 1)
        rows = np.full(k + 1, -1, np.int64)
        known = pairs >= 0
        rows[known] = first_rows[pairs[known] >> 32] + (pairs[known] & 0xFFFFFFFF)
        return rows, scores

    workers = range(max(1, min(num_workers, len(parts))))
    with ThreadPoolExecutor(len(workers)) as pool:
        found = list(pool.map(best, workers))
    rows, scores = (np.concatenate(each) for each in zip(*found, strict=True))
    if not np.isfinite(scores[rows >= 0]).all():
        return None
    order = np.lexsort((rows, -scores))[:k]
    last = scores[order[-1]]
    if any((which >= 0).all() and each.min() == last for which, each in found):
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
