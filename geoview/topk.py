"""The one blocked product-and-top-k: mining, ranking and searches all go through it."""

from __future__ import annotations

import functools
import itertools
import logging
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geoview import rounded_top_k
from geoview.rounded_top_k import Rounded, pair_products

__all__ = ["merged_top_k", "top_k", "top_k_of"]

log = logging.getLogger(__name__)

#: (row numbers, vectors)
_Block = tuple[NDArray[np.int64] | Tensor, NDArray[np.floating] | Tensor]
_Chunk = tuple[Tensor, Tensor]
#: (queries, rows, scores to reach, pairs at most) -> (query, row, score) of pairs, None if they are more
_Near = Callable[[Tensor, Tensor, Tensor, int], tuple[Tensor, Tensor, Tensor] | None]

# A thread's product on a CPU, 4 MB of scores and 4 MB of rows made float32: they stay in the processor's cache until
# they have been looked at. Scores of few queries are looked at when there are those of so many rows: threads that look
# more often wait for one another's turn in Python, yet all of them should have something to do until the end.
_QUERIES, _PRODUCTS, _ELEMENTS, _ROWS = 512, 2**20, 2**20, 2**14
# What is less work than so many products is not worth starting threads for; to read an element is as much as 16.
_ALONE, _READING = 2**29, 16
# On another device: products that are written, 1 GB, and elements that lie there at once.
_PRODUCTS_ELSEWHERE, _ELEMENTS_ELSEWHERE = 2**28, 2**28
# Pairs of a query and a row that a GPU keeps of one pass over rows.
_PAIRS = 2**20
# Products whose largest is looked at in place of all.
_GROUP = 64
# Products of rounded vectors at once: threads that look at fewer wait for one another's turn in Python.
_ROUNDED_PRODUCTS = 2**22
# Fewer queries do not repay that rows are rounded for them; and of more pairs all products are sooner made than each.
_ROUNDED_QUERIES, _ROUNDED_SHARE = 128, 1 / 16
# Candidates that are scored at once: their vectors stay in the processor's cache.
_CANDIDATES = 4_096


def top_k(
    queries: NDArray[np.floating],
    blocks: Iterable[_Block],
    k: int,
    *,
    device: str | torch.device = "cpu",
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Finds the rows with the largest inner products, in memory that does not grow with their number.

    Args:
        queries: (Q, D), any float type; computed in float32.
        blocks: (n,) ascending row numbers and (n, D) vectors of any float type, arrays or tensors, which may lie on the
            device already; blocks come in any order, each as large as one likes.
        k: Rows to find for each query.
        device: Where to compute; on the CPU in `torch.get_num_threads()` threads, one of which at a time asks for the
            next block.

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
    if not len(q):
        return np.empty((0, k), np.int64), np.empty((0, k), np.float32)
    parts = [_Best(q[i : i + _QUERIES], k) for i in range(0, len(q), _QUERIES)]
    if q.device.type == "cpu":
        _look_here(parts, blocks, q.shape)
    else:
        _look_elsewhere(parts, blocks, q.shape)
    best = [part.best() for part in parts]
    return torch.cat([rows for rows, _ in best]).cpu().numpy(), torch.cat([scores for _, scores in best]).cpu().numpy()


def _look_here(parts: list[_Best], blocks: Iterable[_Block], shape: torch.Size) -> None:
    """Looks at all rows on the CPU, for (Q, D) queries."""
    n_queries, dim = shape[0], max(1, shape[1])
    if parts[0].rounded:
        n_rows = _ROUNDED_PRODUCTS // max(dim, min(n_queries, _QUERIES))
    elif len(parts) > 1:  # all of which look at rows that are made float32 once
        n_rows = min(_PRODUCTS // _QUERIES, _ELEMENTS // dim)
    else:
        n_rows = min(_PRODUCTS // n_queries, _ROWS)
    n_rows = max(1, n_rows)
    chunks = _chunks(blocks, shape[1], n_rows)
    n_threads = torch.get_num_threads()
    if n_threads == 1:
        _look(parts, chunks)
        return
    # Of few rows, all are done before threads would have started.
    _look(parts, itertools.islice(chunks, _ALONE // (n_rows * dim * (n_queries + _READING))))
    following = next(chunks, None)
    if following is not None:
        _look_together(parts, itertools.chain([following], chunks), n_threads)


def _look_elsewhere(parts: list[_Best], blocks: Iterable[_Block], shape: torch.Size) -> None:
    """Looks at all rows on another device, for (Q, D) queries."""
    device = parts[0].device
    near = _near(device)
    n_rows = max(1, _PRODUCTS_ELSEWHERE // min(shape[0], _QUERIES))
    for numbers, vectors in _chunks(blocks, shape[1], max(1, _ELEMENTS_ELSEWHERE // max(1, shape[1]))):
        if near and vectors.dtype == torch.float16:
            there = numbers.to(device), vectors.to(device)
            for part in parts:
                part.add_near(*there, near)
        else:
            cuts = (slice(i, i + n_rows) for i in range(0, len(vectors), n_rows))
            _look(parts, ((numbers[cut], vectors[cut]) for cut in cuts))


@functools.cache
def _near(device: torch.device) -> _Near | None:
    """Returns what finds the pairs of queries and rows that are worth keeping without writing all products."""
    if device.type != "cuda":
        return None
    try:
        from geoview.fused_top_k import near
    except ModuleNotFoundError as error:
        if error.name != "triton":
            raise
        log.warning(
            "Triton is not installed: exact searches on %s write all products to memory, and are slower", device
        )
        return None
    return near


def _chunks(blocks: Iterable[_Block], dim: int, n_rows: int) -> Generator[_Chunk]:
    """Cuts blocks into at most so many rows."""
    for numbers, block in blocks:
        if block.shape[1] != dim:
            raise ValueError(f"vectors of {block.shape[1]} and {dim} elements have no inner product")
        for start in range(0, len(block), n_rows):
            vectors = block[start : start + n_rows]
            if not isinstance(vectors, Tensor):
                vectors = torch.from_numpy(np.ascontiguousarray(vectors))
            yield torch.as_tensor(numbers[start : start + n_rows]), vectors


def _look(parts: list[_Best], chunks: Iterable[_Chunk]) -> None:
    device = parts[0].device
    # Used again for each chunk: memory that is new has to be cleared first, which takes a tenth of the time.
    single, products = torch.empty(0, device=device), torch.empty(0, device=device)
    rough = torch.empty(0, dtype=torch.bfloat16)
    # What only one part looks at it makes float32 itself, piece by piece.
    by_pieces = device.type == "cpu" and len(parts) == 1 and not parts[0].rounded
    for numbers, vectors in chunks:
        if not by_pieces and (vectors.dtype != torch.float32 or vectors.device != device):
            vectors = single.resize_(vectors.shape).copy_(vectors)
        rounded = Rounded.of(vectors) if parts[0].rounded else None
        for part in parts:
            if not (rounded and part.add_rounded(numbers, rounded, rough)):
                part.add(numbers.to(device), vectors, products, single)


def _look_together(parts: list[_Best], chunks: Iterator[_Chunk], n_threads: int) -> None:
    """Looks at chunks in threads, each of which takes the next one when it is done with one.

    A product in one thread each is faster than one in all threads, after each of which they wait for one another.
    """
    turn, started, ended = threading.Lock(), threading.Barrier(n_threads + 1), threading.Event()

    def taken() -> Iterator[_Chunk]:
        while not ended.is_set():
            with turn:
                chunk = next(chunks, None)
            if chunk is None:
                return
            yield chunk

    def work() -> None:
        torch.get_num_threads()  # or the first product would take the number for all threads, which is set below
        torch.set_num_threads(1)
        started.wait()
        _look(parts, taken())

    with ThreadPoolExecutor(n_threads) as pool:
        try:
            working = [pool.submit(work) for _ in range(n_threads)]
            started.wait()
            # They spoke of themselves, and of all threads to come: those have as many as before.
            torch.set_num_threads(n_threads)
            for each in working:
                each.result()
            list(pool.map(_Best.settle, parts))
        finally:
            # One that failed, or an interrupt, is not waited for until all rows are done.
            ended.set()
            started.abort()


class _Best:
    """The best k rows of some queries so far, and those seen since that may be better; threads may add at once."""

    def __init__(self, queries: Tensor, k: int) -> None:
        self.queries, self.device = queries, queries.device
        self._k = k
        is_many = self.device.type == "cpu" and len(queries) >= _ROUNDED_QUERIES
        #: None where they are not worth it.
        self.rounded = Rounded.of(queries) if is_many and rounded_top_k.bfloat16_is_faster() else None
        #: Rows of one pass, of which at first every one may be among the best.
        self._step = max(1, _PAIRS // len(queries))
        self._rows = torch.full((len(queries), k), -1, dtype=torch.int64, device=queries.device)
        self._scores = torch.full((len(queries), k), -torch.inf, device=queries.device)
        self._is_known = False  # whether there is a row yet
        #: (query, row, score) each, all scores finite
        self._pending: list[tuple[Tensor, Tensor, Tensor]] = []
        self._n_pending = 0
        self._lock = threading.Lock()

    def add(self, numbers: Tensor, vectors: Tensor, products: Tensor, single: Tensor) -> None:
        """Looks at the rows `numbers` (n,) with (n, D) vectors; `products` and `single` are memory to write to."""
        n = len(vectors)
        products.resize_(len(self.queries), -(-n // _GROUP) * _GROUP)
        products[:, n:] = -torch.inf
        step = n if vectors.dtype == torch.float32 else max(1, _ELEMENTS // max(1, vectors.shape[1]))
        for start in range(0, n, step):
            piece = vectors[start : start + step]
            if piece.dtype != torch.float32:
                piece = single.resize_(piece.shape).copy_(piece)
            torch.mm(self.queries, piece.T, out=products[:, start : start + len(piece)])
        # The worst of the best at this moment: it only rises.
        worst = self._scores[:, -1:]
        groups = products.view(-1, _GROUP)
        largest = groups.amax(dim=1).view(len(products), -1)
        # Not below the worst: so are groups with a NaN, and whatever ties.
        near = _where(~(largest < worst))
        if 4 * len(near) > largest.numel():
            if not bool(largest.isfinite().all()):
                products = products.nan_to_num(nan=-torch.inf, posinf=-torch.inf, neginf=-torch.inf)
            of, at, scores = _largest(products[:, :n], worst, self._k)
        else:
            values, of = groups[near], near // largest.shape[1]
            pair = _where(values >= worst[of])
            scores, which = values.view(-1)[pair], pair // _GROUP
            of, at = of[which], near[which] % largest.shape[1] * _GROUP + pair % _GROUP
        finite = scores.isfinite()
        self._keep(of[finite], numbers[at[finite]], scores[finite])

    def add_rounded(self, numbers: Tensor, vectors: Rounded, products: Tensor) -> bool:
        """Does what `add` does, if rounded products are enough for it; tells whether they are."""
        if self.rounded is None:
            return False
        most = int(_ROUNDED_SHARE * len(self.queries) * len(numbers))
        found = rounded_top_k.near(self.rounded, vectors, self._scores[:, -1], self._k, most, products)
        if found is not None:
            of, at, scores = found
            self._keep(of, numbers[at], scores)
        return found is not None

    def add_near(self, numbers: Tensor, vectors: Tensor, near: _Near) -> None:
        """Looks at the rows `numbers` (n,) with (n, D) vectors of float16, by as many at once as bring few pairs."""
        n_queries = len(self.queries)
        most = max(_PAIRS, 2 * n_queries * self._k)
        start = 0
        while start < len(vectors):
            part = vectors[start : start + self._step]
            found = near(self.queries, part, self._scores[:, -1], most)
            if found is None:
                self._step = len(part) // 2
            else:
                of, at, scores = found
                self._keep(of, numbers[start + at], scores)
                # Pairs are counted in 32 bits.
                start, self._step = start + len(part), min(2 * self._step, (2**31 - 1) // n_queries)

    def best(self) -> tuple[Tensor, Tensor]:
        """Returns rows and scores, (Q, k) each."""
        self.settle()
        return self._rows, self._scores

    def settle(self) -> None:
        """Merges what is pending into the best."""
        with self._lock:
            if self._pending:
                self._settle()

    def _keep(self, of: Tensor, rows: Tensor, scores: Tensor) -> None:
        with self._lock:
            self._pending.append((of, rows, scores))
            self._n_pending += len(of)
            # By then the worst of the best has risen by enough to be worth knowing.
            if self._n_pending >= len(self.queries) * self._k:
                self._settle()

    def _settle(self) -> None:
        n_queries = len(self.queries)
        each = torch.arange(n_queries, device=self.device)
        best = each.repeat_interleave(self._k), self._rows.flatten(), self._scores.flatten()
        of, rows, scores = (torch.cat(some) for some in zip(*self._pending, strict=True))
        counts = of.bincount(minlength=n_queries)
        if self._is_known or bool((counts < self._k).any()):
            of, rows, scores = (torch.cat(some) for some in zip(best, (of, rows, scores), strict=True))
            counts = counts + self._k
        self._is_known = True
        self._pending, self._n_pending = [], 0
        # One number orders by query, then by falling score: a float's bits order as an integer's do, negative ones
        # the other way round. Zero has two signs; + 0.0 leaves it one.
        bits = (scores + 0.0).view(torch.int32)
        order = _ordered((of << 32) - (bits ^ (bits >> 31 & 0x7FFF_FFFF)), rows)
        first = counts.cumsum(0) - counts
        order = order[first[:, None] + torch.arange(self._k, device=self.device)]
        self._rows, self._scores = rows[order], scores[order]


def _where(mask: Tensor) -> Tensor:
    """Returns the places of what is true, ascending, in a mask made flat."""
    if mask.device.type == "cpu":  # several times as fast as PyTorch
        return torch.from_numpy(np.flatnonzero(mask.numpy()))
    return mask.flatten().nonzero()[:, 0]


def _ordered(keys: Tensor, rows: Tensor) -> Tensor:
    """Returns the order of keys, of equal ones by row."""
    if keys.device.type != "cpu":
        by_row = rows.argsort(stable=True)
        return by_row[keys[by_row].argsort(stable=True)]
    # Twice as fast as what is stable; few tie, and those are put in order on their own.
    order = np.argsort(keys.numpy())
    ordered = keys.numpy()[order]
    again = ordered[1:] == ordered[:-1]
    tied = np.flatnonzero(np.append(again, False) | np.append(False, again))
    order[tied] = order[tied][np.lexsort((rows.numpy()[order[tied]], ordered[tied]))]
    return torch.from_numpy(order)


def _largest(products: Tensor, least: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Returns queries, places and scores of the k largest of (Q, n) products each, if not below the (Q, 1) least."""
    n = products.shape[1]
    if k < n:
        last = (
            # Several times as fast as PyTorch. Memory that `numpy` was asked for could not grow any more.
            torch.from_numpy(np.partition(np.from_dlpack(products), n - k, axis=1)[:, n - k, None])
            if products.device.type == "cpu"
            else products.topk(k, dim=1).values[:, -1:]
        )
        least = least.maximum(last)
    chosen = products >= least
    at = _where(chosen)
    crowded = (at // n).bincount(minlength=len(products)) > k
    if crowded.any():
        # More tie for the last of the k places: there, and only there, a stable sort.
        first = products[crowded].sort(dim=1, descending=True, stable=True).indices[:, :k]
        chosen[crowded] = torch.zeros_like(chosen[crowded]).scatter_(1, first, True)
        at = _where(chosen)
    return at // n, at % n, products[at // n, at % n]


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
        vectors_of: Returns the (n, D) vectors of n row numbers, which ascend, none twice.
        k: Rows to find for each query.

    Returns:
        As `top_k`.
    """
    q = torch.from_numpy(np.ascontiguousarray(queries, np.float32))
    flat, n = candidates.ravel(), candidates.shape[1]
    # By row, through all queries: what lies together is read together, and what several queries want is read once.
    # PyTorch sorts whole numbers in half the time that NumPy takes.
    wanted, order = (each.numpy() for each in torch.from_numpy(flat).sort())
    n_none = int(np.searchsorted(wanted, 0))
    wanted, order = wanted[n_none:], order[n_none:]
    first = np.flatnonzero(np.diff(wanted, prepend=-1))
    rows, ends, of = wanted[first], torch.from_numpy(np.append(first, len(order))), torch.from_numpy(order // n)
    found, single = torch.empty(len(order)), torch.empty(0)
    for start in range(0, len(rows), _CANDIDATES):
        each = torch.as_tensor(vectors_of(rows[start : start + _CANDIDATES]))
        vectors = single.resize_(each.shape).copy_(each)
        of_each = ends[start : start + _CANDIDATES + 1]
        pairs = slice(int(of_each[0]), int(of_each[-1]))
        found[pairs] = pair_products(of_each - of_each[0], of[pairs], vectors, q)
    scores = np.full(len(flat), -np.inf, np.float32)
    scores[order] = found
    scores[~np.isfinite(scores)] = -np.inf
    products = scores.reshape(candidates.shape)
    best = np.full((len(q), k), -1, np.int64), np.full((len(q), k), -np.inf, np.float32)
    best[0][:, :n], best[1][:, :n] = _in_order(np.where(np.isneginf(products), -1, candidates), products, k)
    return best


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
    best = np.argsort(-scores, axis=1)
    ordered = np.take_along_axis(scores, best[:, : k + 1], 1)
    # Few tie, and those are put in order on their own.
    tied = ((ordered[:, 1:] == ordered[:, :-1]) & np.isfinite(ordered[:, 1:])).any(axis=1)
    best[tied] = np.lexsort((rows[tied], -scores[tied]), axis=1)
    best = best[:, :k]
    return np.take_along_axis(rows, best, 1), np.take_along_axis(scores, best, 1)
