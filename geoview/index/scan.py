"""One query against all rows as fast as memory brings them: FAISS decodes half precision and multiplies in one pass."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

__all__ = ["scan"]

# Rows a turn: enough that Python hands out few, and few enough that threads end together.
_PART_ROWS = 2**14
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
    # Threads take turns at one iterator. What they do in Python is prepared: they would wait for its lock.
    turns = iter([(number, len(part), faiss.swig_ptr(part.view(np.uint8))) for number, (_, part) in enumerate(parts)])
    seekers = [_Seeker(query, k) for _ in range(max(1, min(num_workers, len(parts))))]
    others = [_threads(num_workers).submit(seeker.look, turns) for seeker in seekers[1:]]
    try:
        seekers[0].look(turns)  # by this thread, which nobody has to wake
    finally:
        wait(others)  # or they would go on reading what is no longer there
    for other in others:
        other.result()
    found = [seeker.found(first_rows) for seeker in seekers]
    rows, scores = (np.concatenate(each) for each in zip(*found, strict=True))
    if not np.isfinite(scores[rows >= 0]).all():
        return None
    order = np.lexsort((rows, -scores))[:k]
    last = scores[order[-1]]
    if any((which >= 0).all() and each.min() == last for which, each in found):
        return None
    return rows[order], scores[order]


class _Seeker:
    """The best rows that one thread has seen."""

    def __init__(self, query: NDArray[np.float32], k: int) -> None:
        # One more than wanted: its score tells whether what was left out may tie.
        self._pairs, self._scores = np.full(k + 1, -1, np.int64), np.full(k + 1, -np.inf, np.float32)
        self._into = faiss.swig_ptr(_NO_IDS), faiss.swig_ptr(self._scores), faiss.swig_ptr(self._pairs), k + 1
        self._scanner = _scanner(len(query))
        self._scanner.set_query(faiss.swig_ptr(query))

    def look(self, turns: Iterator[tuple[int, int, Any]]) -> None:
        """Looks at parts, a number, a length and codes each, until there are no more."""
        for number, length, codes in turns:
            self._scanner.set_list(number, 0.0)
            self._scanner.scan_codes(length, codes, *self._into)

    def found(self, first_rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Returns rows and scores in any order, -1 and -inf where there are fewer, given each part's first row."""
        rows = np.full(len(self._pairs), -1, np.int64)
        known = self._pairs >= 0
        rows[known] = first_rows[self._pairs[known] >> 32] + (self._pairs[known] & 0xFFFFFFFF)
        return rows, self._scores


@functools.cache
def _threads(count: int) -> ThreadPoolExecutor:
    """Returns threads that are kept: to start four takes a third of the time in which they read a million rows."""
    return ThreadPoolExecutor(count, thread_name_prefix="scan")


# A fork has none of them.
os.register_at_fork(after_in_child=_threads.cache_clear)


def _scanner(dim: int) -> Any:
    index = faiss.IndexIVFScalarQuantizer(
        faiss.IndexFlatIP(dim), dim, 1, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT, False
    )
    index.is_trained = True  # half precision has nothing to learn
    scanner = index.get_InvertedListScanner(True, None, None)
    scanner.index = index  # which it points into
    return scanner
