"""Approximate search: FAISS proposes rows by short codes; the rows themselves are scored elsewhere.

A coarse quantiser and a code book are trained once an index. They give each row a list, and a code of four bits for
every few dimensions of what the list's centre leaves over (product quantisation: Jegou, Douze and Schmid, TPAMI 2011;
scanned in registers: André, Kermarrec and Le Scouarnec, VLDB 2015). Lists and codes lie beside each shard, so that a
new shard trains nothing; for searching, those of all shards are laid out list by list, which is little but copying, in
a file that is mapped: how many rows each list has, then for each list its codes, in blocks as the scan holds them in
registers, and the rows' numbers; all numbers of 64 bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import faiss
import numpy as np
import torch
from numpy.typing import NDArray

from geoview.errors import IndexCorruptError
from geoview.files import write_binary
from geoview.rounded_top_k import bfloat16_is_faster
from geoview.topk import top_k

__all__ = ["CODEC_FILE", "LISTS_FILE", "TRAINING_ROWS_A_LIST", "WAY_OUT", "Codec", "Lists", "lists_for", "memory_bytes"]

CODEC_FILE, LISTS_FILE = "codec.faiss", "lists.bin"
WAY_OUT = "`geoview index verify --repair` makes it anew"
#: Rows that a list's centre is trained on; more gain nothing (FAISS asks for 39 and more).
TRAINING_ROWS_A_LIST = 64
# Rows coded at once.
_ROWS = 16_384
_TRAINING_ROUNDS = 10
# Of so many queries, a small share of the centres are found sooner by our own search than by FAISS's: by one thread of
# a processor that multiplies bfloat16 fast.
_QUERIES, _NEAREST = 256, 1 / 64
# FAISS 1.15 compares up to 128,000 elements of queries with centres one query after the other. A product of matrices is
# faster from 800 a thread on (https://github.com/facebookresearch/faiss/pull/5109). What is below that stays as it is.
faiss.cvar.distance_compute_blas_threshold = min(
    faiss.cvar.distance_compute_blas_threshold, 800 * faiss.omp_get_max_threads()
)
# FAISS keeps a row's number, 64 bits, beside its code.
_NUMBER_BYTES = 8


def lists_for(n_rows: int) -> int:
    """Returns how many lists so many rows are best divided into: about four times their square root, a power of two.

    With more, a query's nearest centres take longer to find than their lists to look through. With half as many, 15 to
    33 % fewer queries are answered a second with their 10 best on codes of rendered cells, 14 % fewer to 14 % more with
    their 100 best; on codes drawn in clusters, 22 to 26 % more, and 4 % fewer to 16 % more (a million of each, both
    ways by FAISS: benchmarks/frontier.py).
    """
    return int(2 ** np.clip(np.round(np.log2(4 * np.sqrt(max(1, n_rows)))), 4, 16))


def memory_bytes(n_rows: int, dim: int, n_lists: int, dims_per_code: int) -> int:
    """Returns the bytes of memory of lists that all are looked through, and of their centres."""
    of_row = -(-_n_codes(dim, dims_per_code) // 2) + _NUMBER_BYTES
    return n_rows * of_row + 4 * n_lists * dim


class Codec:
    """Gives rows their lists and short codes."""

    def __init__(self, empty: Any, dim: int) -> None:
        self._empty, self._dim = empty, dim

    @classmethod
    def train(cls, sample: NDArray[np.floating], n_lists: int, dims_per_code: int, seed: int) -> Self:
        """Trains centres and code book.

        Args:
            sample: (n, dim) vectors; `TRAINING_ROWS_A_LIST` of them a list are enough.
            n_lists: Lists.
            dims_per_code: Dimensions that four bits stand for.
            seed: Of the first centres.
        """
        dim = sample.shape[1]
        factory = f"IVF{n_lists},PQ{_n_codes(dim, dims_per_code)}x4fsr"
        empty: Any = faiss.index_factory(
            _n_codes(dim, dims_per_code) * dims_per_code, factory, faiss.METRIC_INNER_PRODUCT
        )
        empty.cp.niter, empty.cp.seed = _TRAINING_ROUNDS, seed
        empty.cp.min_points_per_centroid = 1  # few rows are no reason to talk: what it is worth is measured
        empty.pq.cp.min_points_per_centroid = 1
        empty.train(_padded(sample, empty.d))
        return cls(empty, dim)

    @classmethod
    def read(cls, folder: Path, dim: int) -> Self:
        """Reads a codec.

        Raises:
            IndexCorruptError: It is missing, or cannot be read.
        """
        return cls(_read(folder / CODEC_FILE), dim)

    def write(self, folder: Path) -> None:
        """Writes the codec; the folder is made."""
        _write(self._empty, folder / CODEC_FILE)

    @property
    def nothing(self) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
        """Lists and codes of no rows."""
        return np.empty(0, np.int32), np.empty((0, self._empty.code_size), np.uint8)

    def encode(self, rows: NDArray[np.floating]) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
        """Returns the list (n,) and the code (n, bytes) of each of (n, dim) vectors."""
        lists = np.empty(len(rows), np.int64)
        codes = np.empty((len(rows), self._empty.code_size), np.uint8)
        for start in range(0, len(rows), _ROWS):
            part = slice(start, start + _ROWS)
            block = _padded(rows[part], self._empty.d)
            lists[part] = self._empty.quantizer.search(block, 1)[1][:, 0]
            self._empty.encode_vectors(
                len(block), *(faiss.swig_ptr(array) for array in (block, lists[part], codes[part])), False
            )
        return lists.astype(np.int32), codes

    def lay_out(self, parts: Sequence[tuple[NDArray[np.int32], NDArray[np.uint8]]], folder: Path) -> None:
        """Writes the lists of all shards, rows numbered through them, as they are searched.

        Args:
            parts: Lists and codes of each shard.
            folder: To write to; made.
        """
        inverted = faiss.downcast_InvertedLists(self._empty.invlists)
        lists, codes = (np.concatenate(each) for each in zip(self.nothing, *parts, strict=True))
        order = np.argsort(lists, kind="stable")
        sizes = np.bincount(lists, minlength=self._empty.nlist)
        with write_binary(folder / LISTS_FILE) as file:
            file.write(sizes.data)
            for rows in np.split(order, np.cumsum(sizes)[:-1]):
                file.write(_packed(codes[rows], inverted).data)
                file.write(rows.data)


class Lists:
    """Lists as they are searched, mapped into memory: only what a search looks through is read."""

    def __init__(self, path: Path, n_rows: int, index: Any, held: Any, wanted: NDArray[np.bool_] | None = None) -> None:
        self._path, self._n_rows, self._index, self._wanted = path, n_rows, index, wanted
        self._held = held  # what the index points to
        self._bits = np.packbits(np.empty(0, np.bool_) if wanted is None else wanted, bitorder="little")

    @classmethod
    def open(cls, codec: Path, lists: Path) -> Self:
        """Opens lists that `Codec.lay_out` has written.

        Args:
            codec: File of the codec.
            lists: Their own file.

        Raises:
            IndexCorruptError: A file is missing, or cannot be read.
        """
        index = _read(codec)
        own: Any = faiss.downcast_InvertedLists(index.invlists)
        try:
            sizes = np.fromfile(lists, np.int64, index.nlist)
            found_bytes = lists.stat().st_size
        except OSError as error:
            raise IndexCorruptError(f"{lists}: cannot be read; {WAY_OUT}") from error
        of_codes, of_numbers = -(-sizes // own.n_per_block) * own.block_size, _NUMBER_BYTES * sizes
        ends = sizes.nbytes + np.cumsum(of_codes + of_numbers)
        if len(sizes) < index.nlist or sizes.min() < 0 or ends[-1] != found_bytes:
            raise IndexCorruptError(f"{lists}: is not what was written; {WAY_OUT}")
        # FAISS's own lists on disk have room for a number of codes, then the numbers of rows. A code of one byte here:
        # a block's codes are not apart.
        mapped: Any = faiss.OnDiskInvertedLists(index.nlist, 1, str(lists))
        places = np.stack([sizes, of_codes, ends - of_codes - of_numbers], axis=1)
        faiss.memcpy(mapped.lists.data(), faiss.swig_ptr(places), places.nbytes)
        mapped.totsize, mapped.read_only, mapped.prefetch_nthread = found_bytes, True, 0
        mapped.do_mmap()
        mapped.code_size = own.code_size
        index.replace_invlists(mapped, False)
        mapped.code_size = 1
        index.ntotal = int(sizes.sum())
        return cls(lists, index.ntotal, index, mapped)

    def __len__(self) -> int:
        return int(self._index.ntotal)

    @property
    def n_lists(self) -> int:
        """How many there are."""
        return int(self._index.nlist)

    @property
    def _centres(self) -> NDArray[np.float32]:
        """What the lists' rows are nearest to, (n_lists, dim)."""
        n, dim, quantizer = self.n_lists, self._index.d, faiss.downcast_index(self._index.quantizer)
        centres: NDArray[np.float32] = faiss.rev_swig_ptr(quantizer.get_xb(), n * dim)  # type: ignore[attr-defined]
        return centres.reshape(n, dim)

    def only(self, wanted: NDArray[np.bool_]) -> Lists:
        """Returns the same lists, of whose rows only those count that are marked in (rows,) bool."""
        return Lists(self._path, self._n_rows, self._index, self._held, wanted)

    def cut_out(self) -> Lists:
        """Returns copies of the blocks of codes that rows that count are in, to look through in place of all.

        Within a list rows stand in their order. In S2 order, those of a region lie in few blocks, side by side.
        """
        if self._wanted is None:
            return self
        whole, quantizer = self._index, self._index.quantizer
        index: Any = faiss.IndexIVFPQFastScan(
            quantizer, whole.d, whole.nlist, whole.pq.M, 4, faiss.METRIC_INNER_PRODUCT
        )
        index.pq, index.by_residual, index.is_trained = whole.pq, whole.by_residual, True
        cut: Any = faiss.downcast_InvertedLists(index.invlists)
        for number in range(whole.nlist):
            size = whole.invlists.list_size(number)
            if not size:
                continue
            rows = faiss.rev_swig_ptr(whole.invlists.get_ids(number), size)
            blocks = np.unique(np.flatnonzero(self._wanted[rows]) // cut.n_per_block)
            if len(blocks):
                n_bytes = -(-size // cut.n_per_block) * cut.block_size
                codes = faiss.rev_swig_ptr(whole.invlists.get_codes(number), n_bytes).reshape(-1, cut.block_size)
                at = (blocks[:, None] * cut.n_per_block + np.arange(cut.n_per_block)).ravel()
                rows, codes = rows[at[at < size]], codes[blocks]
                cut.add_entries(number, len(rows), faiss.swig_ptr(rows), faiss.swig_ptr(codes))
                index.ntotal += len(rows)
        return Lists(self._path, self._n_rows, index, self, self._wanted)

    def candidates(self, queries: NDArray[np.floating], n: int, n_probe: int) -> NDArray[np.int64]:
        """Returns the rows with the largest inner products as short codes tell them.

        Args:
            queries: (Q, dim) vectors.
            n: Rows for each query.
            n_probe: Lists to look through.

        Returns:
            (Q, n) rows, best first; -1 where there are fewer.

        Raises:
            IndexCorruptError: The lists name rows that there are not.
        """
        chosen: dict[str, Any] = {"nprobe": min(n_probe, self.n_lists)}
        if self._wanted is not None:
            chosen["sel"] = faiss.IDSelectorBitmap(len(self._wanted), faiss.swig_ptr(self._bits))
        parameters, asked = faiss.IVFSearchParameters(**chosen), _padded(queries, self._index.d)
        own = bfloat16_is_faster() and torch.get_num_threads() == 1 and len(asked) >= _QUERIES
        if not own or n_probe > _NEAREST * self.n_lists:
            found: NDArray[np.int64] = self._index.search(asked, n, params=parameters)[1]
        else:
            nearest, scores = top_k(asked, [(np.arange(self.n_lists), self._centres)], n_probe)
            found = np.empty((len(asked), n), np.int64)
            arrays = asked, nearest, scores, np.empty(found.shape, np.float32), found
            vectors, *others = (faiss.swig_ptr(array) for array in arrays)
            self._index.search_preassigned_c(len(asked), vectors, n, *others, False, parameters)
        if found.max(initial=-1) >= self._n_rows:
            raise IndexCorruptError(f"{self._path}: names rows that there are not; {WAY_OUT}")
        return found


def _n_codes(dim: int, dims_per_code: int) -> int:
    return -(-dim // dims_per_code)


def _padded(rows: NDArray[np.floating], dim: int) -> NDArray[np.float32]:
    """Returns rows in float32 with as many dimensions as codes stand for; zeros change no inner product."""
    padded = np.zeros((len(rows), dim), np.float32)
    padded[:, : rows.shape[1]] = rows
    return padded


def _packed(codes: NDArray[np.uint8], inverted: Any) -> NDArray[np.uint8]:
    """Returns a list's codes in blocks, as the scan holds them in registers."""
    per_block = inverted.n_per_block
    n_blocks = -(-len(codes) // per_block)
    filled = np.zeros((n_blocks, per_block, codes.shape[1]), np.uint8)
    filled.reshape(-1, codes.shape[1])[: len(codes)] = codes
    blocks = np.zeros((n_blocks, inverted.block_size), np.uint8)
    for flat, block in zip(filled, blocks, strict=True):
        inverted.packer.pack_all(faiss.swig_ptr(flat), faiss.swig_ptr(block))
    return blocks


def _write(index: Any, path: Path) -> None:
    """Writes a FAISS file, whole and synced; what went wrong in writing is raised, not what FAISS makes of it."""
    failed: list[OSError] = []

    def write(content: bytes) -> int:
        try:
            return file.write(content)
        except OSError as error:
            failed.append(error)
            raise

    with write_binary(path) as file:
        try:
            faiss.write_index(index, faiss.PyCallbackIOWriter(write))  # type: ignore[attr-defined]
        except RuntimeError:
            for error in failed:
                raise error from None
            raise


def _read(path: Path, flags: int = 0) -> Any:
    try:
        return faiss.read_index(str(path), flags)
    except RuntimeError as error:
        raise IndexCorruptError(f"{path}: cannot be read; {WAY_OUT}") from error
